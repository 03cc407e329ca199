"""Moved: see python -m benchmarks. This name goes in the next version (`_moved.py`)."""

import sys

from _moved import forward

if __name__ == "__main__":
    sys.exit(forward(__file__))
