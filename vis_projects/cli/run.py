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
        "--config-file", required=True, help="a config, e.g. configs/quickstart.yaml"
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
        "--score-threshold", type=float, default=0.0, help="draw and write tracks above this score"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an --output folder that is not empty"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE config overrides")


def run(args: argparse.Namespace) -> int:
    from ..config import load_config
    from ..video import VideoPredictor, open_source
    from ..video.demo_output import read_first_mask, run_demo

    device = ["MODEL.DEVICE", args.device] if args.device else []
    cfg = load_config(args.config_file, [*args.opts, *device])
    if args.weights:
        cfg.MODEL.WEIGHTS = args.weights
    source = open_source(args.input, image_format=cfg.INPUT.FORMAT)
    masks = None if args.first_mask is None else read_first_mask(args.first_mask, source.size)
    written = run_demo(
        VideoPredictor(cfg),
        source,
        args.output,
        masks=masks,
        fps=args.fps,
        max_frames=args.max_frames,
        score_threshold=args.score_threshold,
        overwrite=args.overwrite,
    )
    for line in written:
        print(line)
    return 0
