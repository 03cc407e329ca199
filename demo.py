#!/usr/bin/env python
"""Segment a video: an overlay video, indexed PNGs and results.json.

python demo.py --config-file configs/quickstart.yaml --weights W.pth --input clip.mp4 --output out/
python demo.py --config-file configs/copy_first/davis2016.yaml --input frames/ \
    --first-mask frames/00000.png --output out/
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vis_projects.config import load_config
from vis_projects.structures import one_line_errors
from vis_projects.video import VideoPredictor, open_source
from vis_projects.video.demo_output import read_first_mask, run_demo


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
        "--device", default="", help="cpu, cuda, cuda:1; default: the config's, or cpu"
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
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cfg = load_config(args.config_file, args.opts)
    if args.weights:
        cfg.MODEL.WEIGHTS = args.weights
    cfg.MODEL.DEVICE = args.device or available_device(cfg.MODEL.DEVICE)
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


def available_device(wanted: str) -> str:
    """Return the device asked for, or the CPU where there is no CUDA."""
    import torch

    return wanted if torch.cuda.is_available() or not wanted.startswith("cuda") else "cpu"


if __name__ == "__main__":
    with one_line_errors("demo.py"):
        main()
