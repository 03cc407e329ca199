#!/usr/bin/env python
"""Segment a video: an overlay video, indexed PNGs and results; the same as `vis run`.

python demo.py --config-file configs/quickstart.yaml --weights W.pth --input clip.mp4 --output out/
"""

from __future__ import annotations

import sys

from vis_projects.cli import call, run_script


def main(argv: list[str] | None = None) -> int:
    """Run with a command line; errors are raised."""
    return call("run", argv, prog="demo.py")


if __name__ == "__main__":
    sys.exit(run_script("run", prog="demo.py"))
