"""Segment a video: an overlay video, indexed PNGs and results.

vis run --config-file configs/quickstart.yaml --weights W.pth --input clip.mp4 --output out/
vis run --config-file configs/copy_first/davis2016.yaml --input frames/ \\
    --first-mask frames/00000.png --output out/
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config-file", help="a config, e.g. configs/quickstart.yaml; default: that of --weights"
    )
    parser.add_argument("--weights", default="", help="checkpoint; default: the config's own")
    parser.add_argument(
        "--input", required=True, help="video file, folder of frames, or camera number"
    )
    parser.add_argument("--output", required=True, type=Path, help="folder for all outputs")
    parser.add_argument(
        "--first-mask", type=Path, help="PNG with object ids of the first frame (VOS systems)"
    )
    parser.add_argument(
        "--device", default="", help="cpu, cuda, cuda:1, mps; default: the config's, which is auto"
    )
    parser.add_argument("--fps", type=float, help="of the overlay; default: the input's, or 24")
    parser.add_argument("--max-frames", type=int, help="stop after this many frames")
    parser.add_argument(
        "--score-threshold",
        type=float,
        help="draw tracks above this score; default: the system's own; the files keep all",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the outputs of an earlier run in --output; nothing else there is touched",
    )
    parser.add_argument("--boxes", action="store_true", help="also draw boxes")
    parser.add_argument(
        "--trails", type=int, default=0, metavar="N", help="also draw the ways of the last N frames"
    )
    parser.add_argument("--ids-only", action="store_true", help="captions are ids, nothing else")
    parser.add_argument(
        "--audio", action="store_true", help="the overlay has the sound of the input"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE config overrides")


def run(args: argparse.Namespace) -> int:
    import sys

    from ..config import load_config
    from ..structures import InputError
    from ..video import VideoPredictor, open_source
    from ..video.demo_output import check_output, run_demo
    from ..weights import config_of_checkpoint

    device = ["MODEL.DEVICE", args.device] if args.device else []
    opts = [*args.opts, *device]
    if args.config_file:
        cfg = load_config(args.config_file, opts)
    elif args.weights:
        cfg = config_of_checkpoint(args.weights, opts)
    else:
        raise InputError("give --config-file, or --weights that carry their config")
    if args.weights:
        cfg.MODEL.WEIGHTS = args.weights
    masks = [args.first_mask] if args.first_mask else []
    source = open_source(args.input, image_format=cfg.INPUT.FORMAT, exclude=masks)
    inputs = [args.input, *masks]
    check_output(args.output, source, overwrite=args.overwrite, inputs=inputs)
    outcome = run_demo(
        VideoPredictor(cfg),
        source,
        args.output,
        masks=args.first_mask,
        fps=args.fps,
        max_frames=args.max_frames,
        score_threshold=args.score_threshold,
        overwrite=args.overwrite,
        inputs=inputs,
        style={"boxes": args.boxes, "trails": args.trails, "ids_only": args.ids_only},
        audio=args.audio,
    )
    for line in outcome:
        print(line)
    if outcome.missing:
        print(f"vis run: {outcome.missing}", file=sys.stderr)
    return outcome.exit_code
