"""The command ``vis``: its help needs neither torch nor Detectron2, so that it answers at once.

The package is made known without running its ``__init__``, which imports the systems; the command
runs it when a subcommand starts to work.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec


def main() -> int:
    """Run ``vis`` and return its exit code."""
    if "vis_projects" not in sys.modules:
        spec = find_spec("vis_projects")
        sys.modules["vis_projects"] = module_from_spec(spec)
    from vis_projects.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
