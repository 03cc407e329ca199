"""Score weights on the data sets of DATASETS.TEST.

vis eval --config-file configs/copy_first/davis2016.yaml
vis eval --config-file C --weights W.pth
vis eval --config-file C --results out/ DATASETS.TEST "('own_vis:my.json:frames',)"
vis eval --config-file C DATASETS.TEST "('synthetic_val',)"
"""

from __future__ import annotations

import argparse

from .train import add_run_arguments, run_and_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument("--weights", default="", help="checkpoint; default: the config's own")
    parser.add_argument(
        "--results",
        default="",
        metavar="FOLDER",
        help="score what vis run left there, instead of a model",
    )
    parser.add_argument(
        "--resume", action="store_true", help="score the last checkpoint of OUTPUT_DIR"
    )


def run(args: argparse.Namespace) -> int:
    args.eval_only = True
    if args.weights:
        args.opts = [*args.opts, "MODEL.WEIGHTS", args.weights]
    return run_and_report(args)
