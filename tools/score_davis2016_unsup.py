#!/usr/bin/env python
"""Score a UVOS system on the DAVIS-2016 masks under two protocols.

python tools/score_davis2016_unsup.py --config-file configs/srnet/R50_davis2019.yaml \\
    --weights model_final.pth

1. DAVIS-2016: the union of all tracks against the one object.
2. "2016 masks, unsup protocol": every mask > 0 becomes object 1, scored as DAVIS-2019 scores its
   objects (best proposal per object over the whole video, all frames). This is *not* the DAVIS-2019
   benchmark, whose annotation is another, with several objects a video.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from detectron2.modeling import build_model
from tqdm import tqdm

from vis_metrics.davis import evaluate_davis_maps
from vis_projects.config import load_config
from vis_projects.data import build_test_loader, get_metadata, load_videos
from vis_projects.engine import load_weights
from vis_projects.structures import InputError, one_line_errors

DATA_SET = "davis_2016_val"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--sequences", nargs="+", help="only these; default all of the list")
    parser.add_argument("--json", type=Path, help="write the fractions here, too")
    parser.add_argument("--opts", nargs="+", default=[], help="KEY VALUE pairs")
    args = parser.parse_args(argv)
    cfg = load_config(args.config_file, [*args.opts, "MODEL.WEIGHTS", args.weights])
    model = build_model(cfg).eval()
    if model.takes_masks:
        raise InputError(f"{cfg.MODEL.META_ARCHITECTURE} is given its masks: use train_net.py")
    load_weights(model, cfg.MODEL.WEIGHTS)
    get_metadata(DATA_SET)
    truth, union, tracks = {}, {}, {}
    videos = {video["name"]: video for video in load_videos(DATA_SET)}
    for (item,) in tqdm(build_test_loader(cfg, DATA_SET), desc="videos", unit="video"):
        name = item["name"]
        if args.sequences and name not in args.sequences:
            continue
        result = model([item])[0]
        annotations = videos[name]["annotations"]
        truth[name] = np.stack(
            [(annotations.label_map(t) > 0).astype(np.uint8) for t in range(item["length"])]
        )
        union[name] = np.stack([m.astype(np.uint8) for m in result.foreground()])
        tracks[name] = np.stack(list(result.label_maps(20)))
    if not truth:
        raise InputError(f"none of the sequences {args.sequences} is in {DATA_SET}")
    report = {
        "DAVIS-2016": evaluate_davis_maps(truth, union, protocol="2016"),
        "2016 masks, unsup protocol": evaluate_davis_maps(truth, tracks, protocol="unsup"),
    }
    for label, stats in report.items():
        figures = (f"{k} {100 * stats[f'{k}-Mean']:.1f}" for k in ("J&F", "J", "F"))
        print(f"{label} ({len(truth)} sequences): {', '.join(figures)}")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1, default=float))


if __name__ == "__main__":
    with one_line_errors("score_davis2016_unsup.py"):
        main()
