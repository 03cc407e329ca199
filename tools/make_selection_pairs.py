#!/usr/bin/env python
"""Make training pairs for the mask selection network from any detector and propagator.

python tools/make_selection_pairs.py --config-file configs/msn/swinB_ytvis2021.yaml --weights W \\
    --files 2 --out output/msn/pairs_1.json.gz DATASETS.TRAIN "('ytvis_2021_local_fold1',)"

The pipeline of the config runs over the annotated videos of DATASETS.TRAIN in both directions, and
every associated pair of a propagated and a segmented mask is kept with its IoU with the object's
true mask. Masks of a detector look too good on the videos that it was trained on: train one
detector on either fold (prepare.py split NAME --folds 2), and run this tool with each on the fold
that it has not seen. MODEL.MSN.SELECTOR.PAIRS takes several files; --train and --val count the
pairs of all of them together, of which this file gets its share (--files).
configs/msn/two_folds.sh does all of it.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger

from vis_projects.config import load_config
from vis_projects.data import frame_source
from vis_projects.data.catalog import load_videos
from vis_projects.msn.selection_pairs import pairs_of_frame, split_pairs, true_masks, write_pairs
from vis_projects.structures import InputError, one_line_errors
from vis_projects.weights import build_for_test

logger = logging.getLogger("vis_projects.pairs")


def pairs_of_video(model: Any, dataset: str, video: dict[str, Any]) -> list[dict[str, Any]]:
    """Run the pipeline over a video and return its pairs."""
    found: list[dict[str, Any]] = []

    def listen(frame, propagated, segmented, decision) -> None:
        truth = true_masks(video, frame.index)
        for pair in pairs_of_frame(truth, propagated, segmented, decision):
            place = {"dataset": dataset, "video": video["video_id"], "frame": frame.index}
            found.append({**place, **pair})

    model.on_decision = listen
    model.run_video(frame_source(video, image_format=model.input_format))
    return found


def make_pairs(cfg: CfgNode, *, half: int | None, videos: int | None) -> list[list[dict]]:
    """Return the pairs of each video of DATASETS.TRAIN.

    Raises:
        InputError: no data set, videos without annotations, weights that do not fit.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = "MSN"
    # Selection is fixed to propagation, and stage 3 is of no use here.
    cfg.MODEL.MSN.SELECT = "propagation"
    cfg.MODEL.MSN.MERGE_CHOICE = "forward"
    cfg.MODEL.MSN.HUMAN_OBJECT = False
    names = cfg.DATASETS.TRAIN
    if not names:
        raise InputError("DATASETS.TRAIN names no data set to make pairs from")
    model, _ = build_for_test(cfg)
    result = []
    for name in names:
        chosen = [v for i, v in enumerate(load_videos(name)) if half in (None, i % 2)][:videos]
        for n, video in enumerate(chosen, 1):
            if not video.get("annotations"):
                raise InputError(f"{name}: video {video['video_id']} has no annotations")
            result.append(pairs_of_video(model, name, video))
            if n % 10 == 0 or n == len(chosen):
                logger.info(
                    "%s: %d of %d videos, %d pairs", name, n, len(chosen), sum(map(len, result))
                )
    return result


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="of the pipeline")
    parser.add_argument("--weights", default="", help="of detector and propagator, joined")
    parser.add_argument("--out", type=Path, required=True, help="file to write, .json.gz")
    parser.add_argument("--half", type=int, choices=(0, 1), help=argparse.SUPPRESS)
    parser.add_argument("--videos", type=int, help="at most so many videos per data set")
    parser.add_argument("--train", type=int, default=80_000, help="training pairs of all files")
    parser.add_argument("--val", type=int, default=8_000, help="validation pairs of all files")
    parser.add_argument("--files", type=int, default=1, help="files that share them (folds: 2)")
    parser.add_argument("opts", nargs="*", help="KEY VALUE overrides")
    args = parser.parse_args(argv)
    setup_logger(name="vis_projects", abbrev_name="vis")
    if args.files < 1:
        raise InputError(f"--files {args.files}: at least this one file is made")
    cfg = load_config(args.config_file, args.opts)
    if args.half is not None:
        logger.warning(
            "--half is deprecated: it takes every second video of the set as it is loaded, which "
            "no training set can leave out; use prepare.py split --folds 2 and *_local_fold1"
        )
    if args.weights:
        cfg.MODEL.WEIGHTS = args.weights
    by_video = make_pairs(cfg, half=args.half, videos=args.videos)
    parts = split_pairs(
        by_video,
        min_gap=cfg.MODEL.MSN.SELECTOR.MIN_IOU_GAP,
        train=args.train // args.files,
        val=args.val // args.files,
    )
    meta = {
        "config": args.config_file,
        "weights": cfg.MODEL.WEIGHTS,
        "datasets": list(cfg.DATASETS.TRAIN),
        "half": args.half,
        "videos": len(by_video),
        "pairs": sum(map(len, by_video)),
    }
    write_pairs(args.out, parts, meta)
    counts = ", ".join(f"{len(pairs)} {name}" for name, pairs in parts.items())
    print(f"{args.out}: {counts} of {meta['pairs']} pairs of {meta['videos']} videos")


if __name__ == "__main__":
    with one_line_errors("make_selection_pairs.py"):
        main()
