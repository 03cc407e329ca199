#!/usr/bin/env python
"""Convert an official checkpoint to this project's layout; the same as `vis weights convert`.

python tools/convert_weights.py crossvis official.pth ours.pth
"""

from __future__ import annotations

import sys

from vis_projects.cli import call, run_script


def main(argv: list[str] | None = None) -> int:
    """Run with a command line; errors are raised."""
    argv = sys.argv[1:] if argv is None else argv
    return call("weights", ["convert", *argv], prog="convert_weights.py")


if __name__ == "__main__":
    sys.exit(run_script("weights", ["convert", *sys.argv[1:]], prog="convert_weights.py"))
