"""Speed and memory of one config, honestly timed.

vis bench --config-file configs/crossvis/R50_1x_ytvis2019.yaml --size 360x640 --frames 100

Frames are synthetic and in memory unless --include-reading; the first ones warm up and are not
counted; every timed frame ends with a device synchronisation. VOS systems get --objects masks.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config-file", required=True)
    parser.add_argument(
        "--weights", default="", help="default: the config's, if they are there, else random"
    )
    parser.add_argument("--size", default="360x640", help="rows x columns of the frames")
    parser.add_argument("--frames", type=int, default=100, help="timed frames")
    parser.add_argument("--warm-up", type=int, default=5, help="frames before timing starts")
    parser.add_argument("--objects", type=int, default=1, help="given masks, VOS systems only")
    parser.add_argument(
        "--include-reading", action="store_true", help="decode the frames from an mp4 on the way"
    )
    parser.add_argument("--amp", action="store_true", help="half precision (bfloat16 on a CPU)")
    parser.add_argument("--compile", action="store_true", help="torch.compile the networks")
    parser.add_argument("--device", default="", help="default: the config's, which is auto")
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE config overrides")


def run(args: argparse.Namespace) -> int:
    import json

    from ..config import choose_dtype, load_config
    from ..engine.benchmark import measure, report
    from ..structures import InputError, resolve_device

    try:
        height, width = (int(n) for n in args.size.lower().split("x"))
    except ValueError:
        raise InputError(f"--size {args.size}: give rows x columns, such as 360x640") from None
    cfg = load_config(args.config_file, args.opts)
    if args.device:
        cfg.MODEL.DEVICE = resolve_device(args.device)
    choose_dtype(cfg, args.opts)
    figures = measure(
        cfg,
        weights=args.weights,
        size=(height, width),
        frames=args.frames,
        warm_up=args.warm_up,
        objects=args.objects,
        include_reading=args.include_reading,
        amp=args.amp,
        compiled=args.compile,
        device=args.device,
        threads=args.threads,
    )
    print(report(figures))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    return 0
