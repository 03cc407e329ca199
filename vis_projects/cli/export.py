"""Write the per-frame networks of a system for ONNX Runtime or torch.export.

vis export model --config-file C --weights W.pth --format onnx --size 384x640 --output net.onnx

--size is that of the network's input, rows x columns. A system with several networks writes one
file for each; a JSON beside each names inputs, outputs and what an image needs first. Every file is
run once and compared with the network it came from.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parts = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    model = parts.add_parser("model", help="per-frame networks as ONNX or pt2")
    model.add_argument("--config-file", required=True)
    model.add_argument("--weights", default="", help="checkpoint; default: the config's own")
    model.add_argument("--format", choices=("onnx", "pt2"), default="onnx")
    model.add_argument("--size", required=True, help="rows x columns, such as 384x640")
    model.add_argument("--output", type=Path, help="default: the system's name")
    model.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE config overrides")


def run(args: argparse.Namespace) -> int:
    from ..config import load_config
    from ..engine.export import export_model
    from ..structures import InputError

    try:
        height, width = (int(n) for n in args.size.lower().split("x"))
    except ValueError:
        raise InputError(f"--size {args.size}: give rows x columns, such as 384x640") from None
    opts = [*args.opts, *(["MODEL.WEIGHTS", args.weights] if args.weights else [])]
    cfg = load_config(args.config_file, opts)
    output = args.output or Path(cfg.MODEL.META_ARCHITECTURE.lower())
    for file in export_model(cfg, output, size=(height, width), kind=args.format):
        print(file)
    return 0
