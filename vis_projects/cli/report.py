"""Write a page about a run: scores, curves, errors, best and worst videos; or compare runs.

vis report output/quickstart
vis report output/a output/b --output comparison.html
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="+", type=Path, help="OUTPUT_DIR of a training or an evaluation"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="page; default: report.html in the folder of a run, comparison.html here for several",
    )


def run(args: argparse.Namespace) -> int:
    from ..report.run_comparison import write_comparison
    from ..report.run_report import write_report

    if len(args.runs) == 1:
        print(write_report(args.runs[0], args.output))
    else:
        print(write_comparison(args.runs, args.output or "comparison.html"))
    return 0
