"""Segment videos: an overlay video, indexed PNGs and results for each.

vis run clip.mp4 --config-file configs/quickstart.yaml --weights W.pth --output out/
vis run clip.mp4 --box 120,80,340,400 --output out/
vis run frames/ --config-file configs/copy_first/davis2016.yaml \\
    --first-mask frames/00000.png --output out/

An input is a video file, a folder of frames, a camera number or a stream (rtsp://, http://).
Several inputs, a folder of videos or of frame folders, a pattern or @list.txt make a folder per
video in --output, and manifest.jsonl: one line a video with its state. A video that fails is
recorded and passed over (exit code 3); the same command again does what is missing or failed.

vis run videos/ "more/*.mp4" @list.txt --weights W.pth --output out/ --workers 4
vis run videos/ --first-mask "masks/{name}.png" --weights W.pth --output out/
vis run videos/ --weights W.pth --output out/ --shard slurm
vis run videos/ --weights W.pth --output out/ --engine ray
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from .prompt_options import (
    add_prompt_arguments,
    choose_config,
    first_frame_masks,
    load_systems,
    prompted,
)

INTERMIXED = True  # inputs and KEY VALUE pairs may stand on both sides of the options
_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="*",
        metavar="INPUT ... KEY VALUE",
        help="videos, folders, patterns, @list.txt, URLs; then config overrides",
    )
    parser.add_argument(
        "--config-file",
        help="a config, e.g. configs/quickstart.yaml; default: that of --weights, else, where "
        "objects are given, a matcher that needs no training",
    )
    parser.add_argument("--weights", default="", help="checkpoint; default: the config's own")
    parser.add_argument("--input", action="append", default=[], help="the same as INPUT")
    parser.add_argument("--output", required=True, help="folder for all outputs")
    parser.add_argument(
        "--first-mask",
        default="",
        help="PNG with object ids of the first frame (VOS systems); a pattern such as "
        '"masks/{name}.png" for many videos; auto: objects that a system proposes, the shipped '
        "one or that of --weights",
    )
    add_prompt_arguments(parser)
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
    many = parser.add_argument_group("many videos")
    many.add_argument("--engine", choices=("local", "ray"), default="local")
    many.add_argument(
        "--workers", type=int, help="processes (ray: actors); default: one per GPU, or one"
    )
    many.add_argument(
        "--threads", type=int, help="CPU threads of a worker; default: its share of the cores"
    )
    many.add_argument("--shard", default="", help="do a part only: 1/4 to 4/4, slurm or torchrun")
    many.add_argument("--retry-failed", action="store_true", help="do only what failed before")
    many.add_argument("--dry-run", action="store_true", help="list what would be done")


def run(args: argparse.Namespace) -> int:
    from ..bulk import is_single
    from ..structures import InputError

    words, args.opts = split_words(args.words)
    inputs = [*words, *args.input]
    if not inputs:
        raise InputError("name a video: a file, a folder of frames, a camera number or a URL")
    single = is_single(inputs) and args.engine == "local" and not args.shard
    choose_config(args, single=single)
    if single and not (args.dry_run or args.retry_failed):
        return _run_one(args, inputs[0])
    return _run_many(args, inputs)


def split_words(words: list[str]) -> tuple[list[str], list[str]]:
    """Inputs, and the KEY VALUE pairs behind them; a file that exists is an input."""
    for i, word in enumerate(words):
        if _KEY.fullmatch(word) and not Path(word).exists():
            return words[:i], words[i:]
    return words, []


def _settings(args: argparse.Namespace, **more: Any) -> Any:
    from ..bulk import Settings

    return Settings(
        output=str(args.output),
        config_file=args.config_file or "",
        weights=args.weights,
        opts=tuple(args.opts),
        imports=tuple(args.imports),
        fps=args.fps,
        max_frames=args.max_frames,
        score_threshold=args.score_threshold,
        **more,
    )


def _run_one(args: argparse.Namespace, given: str) -> int:
    from ..video import VideoPredictor, open_source
    from ..video.demo_output import check_output, run_demo

    cfg, finder = load_systems(args, _settings(args))
    masks = [args.first_mask] if args.first_mask and not prompted(args) else []
    source = open_source(given, image_format=cfg.INPUT.FORMAT, exclude=masks)
    inputs = [given, *masks]
    check_output(args.output, source, overwrite=args.overwrite, inputs=inputs)
    given_masks = args.first_mask or None
    if prompted(args):
        given_masks = first_frame_masks(args, source, finder)
    predictor = VideoPredictor(cfg)
    predictor.require_weights()
    outcome = run_demo(
        predictor,
        source,
        args.output,
        masks=given_masks,
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


def _run_many(args: argparse.Namespace, inputs: list[str]) -> int:
    from tqdm import tqdm

    from ..bulk import make_plan, parse_shard, run_plan

    devices, threads = _places(args)
    plan = make_plan(
        inputs,
        _settings(args, threads=threads),
        mask=args.first_mask,
        shard=parse_shard(args.shard),
        retry_failed=args.retry_failed,
        overwrite=args.overwrite,
    )
    print(_headline(plan))
    if args.dry_run:
        for job in plan.todo:
            print(f"{job.name}: {job.input}" + (f", mask {job.mask}" if job.mask else ""))
        return 0
    engine = _engine(args, plan.settings, devices)
    with tqdm(total=len(plan.todo), unit="video", desc="segmenting") as bar:

        def reported(report: Any) -> None:
            if report.error:
                bar.set_postfix_str(f"last failure: {report.name}")
            bar.update()

        try:
            run_plan(plan, engine, reported)
        except KeyboardInterrupt as error:
            done = plan.counts()["done"]
            text = f"{error or 'Ctrl-C'}; {done} of {len(plan.jobs)} videos are done"
            raise type(error)(f"{text}: the same command continues") from None
    counts = plan.counts()
    print(f"{counts['done']} done, {counts['failed']} failed, {counts['missing']} missing")
    for entry in plan.failures():
        place = "" if entry.error.startswith(entry.input) else f"{entry.input}: "
        print(f"vis run: {place}{entry.error}", file=sys.stderr)
    return 0 if counts["done"] == len(plan.jobs) else 3


def _headline(plan: Any) -> str:
    count = len(plan.jobs)
    part = "" if len(plan.all_names) == count else f" of {len(plan.all_names)} (this shard)"
    return f"{count} videos{part}: {count - len(plan.todo)} done before, {len(plan.todo)} to do"


def _places(args: argparse.Namespace) -> tuple[tuple[str, ...], int]:
    """A device for every worker, and the threads of each."""
    import os

    import torch

    from ..structures import InputError, resolve_device

    device = resolve_device(args.device or "auto")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers {args.workers}: at least one")
    if device == "cuda":
        gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        devices = tuple(gpus[i % len(gpus)] for i in range(args.workers or len(gpus)))
    else:
        devices = (device,) * (args.workers or 1)
    return devices, args.threads or max(1, (cores or 1) // len(devices))


def _engine(args: argparse.Namespace, settings: Any, devices: tuple[str, ...]) -> Any:
    if args.engine == "ray":
        from ..bulk.ray_engine import RayEngine

        return RayEngine(settings, workers=args.workers, device=args.device)
    from ..bulk import LocalEngine

    return LocalEngine(settings, devices=devices)
