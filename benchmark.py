#!/usr/bin/env python
"""Speed and memory of one config, honestly timed; the same as `vis bench`.

python benchmark.py --config-file configs/crossvis/R50_1x_ytvis2019.yaml --size 360x640 --frames 100
"""

from __future__ import annotations

import sys

from vis_projects.cli import call, run_script


def main(argv: list[str] | None = None) -> int:
    """Run with a command line; errors are raised."""
    return call("bench", argv, prog="benchmark.py")


if __name__ == "__main__":
    sys.exit(run_script("bench", prog="benchmark.py"))
