#!/usr/bin/env python
"""Propose-Reduce with more and more key frames (Fig. 7), and without reduction (Table 4).

python tools/compare_key_frames.py --config-file configs/seq_mask_rcnn/quickstart_synthetic.yaml \\
    --weights output/seq_mask_rcnn_quickstart/model_final.pth

Runs one trained model several times over the first set of DATASETS.TEST and prints AP and AR with
95 % bootstrap intervals of AP over videos, and the interval of the lead of the first row (both on
the same draws).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tabulate import tabulate

from vis_metrics.bootstrap import ap_metric, bootstrap
from vis_metrics.ytvis import evaluate_ytvis, match_tracks
from vis_projects.config import load_config
from vis_projects.data import build_test_loader, get_metadata
from vis_projects.engine import load_weights
from vis_projects.seq_mask_rcnn import SeqMaskRCNN
from vis_projects.seq_mask_rcnn.propose_reduce import ProposeReduce
from vis_projects.structures import InputError, VideoResult, one_line_errors

NODE = "MODEL.SEQ_MASK_RCNN."
NO_REDUCTION = (NODE + "REDUCE.MODE", "none")
CATEGORY_AWARE = (
    *(NODE + "REDUCE.MODE", "category_aware", NODE + "REDUCE.IOU_THRESH", 0.9),
    *(NODE + "RESULT_SCORE_THRESH", 0.001),
)
VARIANTS = {
    "K = 6": (NODE + "NUM_KEY_FRAMES", 6),
    "K = 4": (NODE + "NUM_KEY_FRAMES", 4),
    "K = 2": (NODE + "NUM_KEY_FRAMES", 2),
    "K = 1": (NODE + "NUM_KEY_FRAMES", 1),
    "K = 6, no reduction": (NODE + "NUM_KEY_FRAMES", 6, *NO_REDUCTION),
    "K = 6, category-aware": (NODE + "NUM_KEY_FRAMES", 6, *CATEGORY_AWARE),
}


def segment(configs: dict[str, CfgNode], name: str) -> dict[str, dict[Any, VideoResult]]:
    """Return ``{variant: {video id: result}}``; equal key frames are propagated once."""
    first = next(iter(configs.values()))
    model = build_model(first).eval()
    if not isinstance(model, SeqMaskRCNN):
        raise InputError(f"{first.MODEL.META_ARCHITECTURE} has no key frames: use SeqMaskRCNN")
    load_weights(model, first.MODEL.WEIGHTS)
    results: dict[str, dict[Any, VideoResult]] = {label: {} for label in configs}
    for (item,) in build_test_loader(first, name):
        known: dict[int, Any] = {}
        for label, cfg in configs.items():
            model.propose_reduce = Remembering(cfg, known)
            model.result_score_thresh = cfg.MODEL.SEQ_MASK_RCNN.RESULT_SCORE_THRESH
            results[label][item["video_id"]] = model([item])[0]
        print(f"video {item['video_id']}", file=sys.stderr, flush=True)
    return results


class Remembering(ProposeReduce):
    """Takes the sequences of a video from ``known`` by the number of key frames."""

    def __init__(self, cfg: CfgNode, known: dict[int, Any]) -> None:
        super().__init__(cfg)
        self.known = known

    def sequences(self, *args: Any, **video: Any) -> Any:
        if self.num_key_frames not in self.known:
            self.known[self.num_key_frames] = super().sequences(*args, **video)
        return self.known[self.num_key_frames]


def entries_of(name: str, results: dict[Any, VideoResult]) -> list[dict[str, Any]]:
    """Return YouTube-VIS result entries."""
    to_id = get_metadata(name).contiguous_id_to_dataset_id
    return [
        {
            "video_id": video_id,
            "category_id": to_id[category],
            "score": score,
            "segmentations": track.masks,
        }
        for video_id, result in results.items()
        for track in sorted(result.tracks, key=lambda t: t.id)
        for category, score in sorted(track.category_scores.items())
    ]


def compare(config: str, opts: list[str]) -> list[dict[str, Any]]:
    """Return a row of figures for every variant."""
    rows: list[dict[str, Any]] = []
    leader = None
    configs = {k: load_config(config, [*opts, *map(str, v)]) for k, v in VARIANTS.items()}
    name = next(iter(configs.values())).DATASETS.TEST[0]
    found = segment(configs, name)
    truth = get_metadata(name).ground_truth_fn()
    for label, results in found.items():
        entries = entries_of(name, results)
        figures = evaluate_ytvis(truth, entries)
        metric = ap_metric(match_tracks(truth, entries), scale=100)
        leader = leader or metric
        ap = bootstrap(metric, len(results))
        lead = bootstrap(lambda w, m=metric, first=leader: first(w) - m(w), len(results))
        rows.append(
            {
                "variant": label,
                "AP": 100 * figures["AP"],
                "low": ap.low,
                "high": ap.high,
                "lead": lead.mean,
                "lead_low": lead.low,
                "lead_high": lead.high,
                **{k: 100 * figures[k] for k in ("AP50", "AR1", "AR10", "AR100")},
                "tracks": len(entries),
            }
        )
        print(f"{label}: AP {rows[-1]['AP']:.1f}", file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--opts", nargs="+", default=[], help="KEY VALUE pairs")
    args = parser.parse_args()
    torch.manual_seed(0)
    rows = compare(args.config_file, [*args.opts, "MODEL.WEIGHTS", args.weights])
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    table = [
        (
            r["variant"],
            f"{r['AP']:.1f} [{r['low']:.1f}, {r['high']:.1f}]",
            f"{r['lead']:.1f} [{r['lead_low']:.1f}, {r['lead_high']:.1f}]",
            *(f"{r[k]:.1f}" for k in ("AP50", "AR1", "AR10", "AR100")),
            r["tracks"],
        )
        for r in rows
    ]
    headers = ("", "AP", "lead of the first", "AP50", "AR1", "AR10", "AR100", "entries")
    print(tabulate(table, headers=headers, tablefmt="pipe"))


if __name__ == "__main__":
    with one_line_errors("compare_key_frames.py"):
        main()
