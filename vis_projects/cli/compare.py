"""Variants of one config over the same videos, with intervals of their differences.

vis compare --config-file configs/srnet/quickstart_synthetic.yaml --weights W.pth \\
    --variants configs/srnet/compare/switches.yaml

The file of variants names overrides; the first variant is the baseline:

    baseline: {}
    no heat map: {MODEL.SRNET.TEST.ZERO_HEATMAP: true}

Every variant runs over DATASETS.TEST. The table has AP or J&F (x 100) with a 95 % bootstrap
interval over videos, and the difference from the baseline with its interval on the same draws.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--weights", default="", help="checkpoint; default: the config's own")
    parser.add_argument(
        "--variants", default="", metavar="FILE", help="YAML of overrides; default: none"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="only this variant; repeatable"
    )
    parser.add_argument("--videos", type=int, help="only the first so many of each data set")
    parser.add_argument("--samples", type=int, default=1000, help="bootstrap draws of videos")
    parser.add_argument(
        "--protocol",
        default="",
        choices=("", "2016", "unsup"),
        help="score DAVIS-2016 masks under this protocol (default: the data set's own)",
    )
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE config overrides")


def run(args: argparse.Namespace) -> int:
    import json

    from ..report.compare import as_json, compare, read_variants, table

    variants = read_variants(args.variants, args.only) if args.variants else {"as it is": []}
    opts = [*args.opts, *(["MODEL.WEIGHTS", args.weights] if args.weights else [])]
    rows = compare(
        args.config_file,
        variants,
        opts,
        videos=args.videos,
        samples=args.samples,
        protocol=args.protocol,
    )
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps(as_json(rows), indent=1))
    return 0
