#!/usr/bin/env python
"""Check, split and convert data sets; the same as `vis data`.

python datasets/prepare.py check davis_2016_val ytvis_2019_train
"""

from __future__ import annotations

import sys

from vis_projects.cli import call, run_script


def main(argv: list[str] | None = None) -> int:
    """Run with a command line; errors are raised."""
    return call("data", argv, prog="prepare.py")


if __name__ == "__main__":
    sys.exit(run_script("data", prog="prepare.py"))
