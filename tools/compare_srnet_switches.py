#!/usr/bin/env python
"""What SRNet's parts are worth at test (Table 2), and its tracking vectors against box IoU.

python tools/compare_srnet_switches.py --config-file configs/srnet/quickstart_synthetic.yaml \\
    --weights output/srnet_quickstart/model_final.pth

Runs variants of one trained model over DATASETS.TEST, a VIS set, a UVOS set of the same videos or
both, and prints AP and J&F of every variant with a 95 % bootstrap interval over videos, and the
interval of the baseline's lead over it (both on the same draws). The last five link the same masks
by other means, with the configuration's memory and condition on classes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tabulate import tabulate

from vis_metrics.bootstrap import Metric, ap_metric, bootstrap, jf_metric
from vis_metrics.davis import evaluate_davis_maps
from vis_metrics.ytvis import match_tracks
from vis_projects.config import load_config
from vis_projects.data import build_test_loader, get_metadata
from vis_projects.engine import load_weights
from vis_projects.srnet import SRNet
from vis_projects.srnet.model import NetworkOutput
from vis_projects.structures import Frame, InputError, VideoResult, one_line_errors

BASELINE = "baseline"
VARIANTS = {
    BASELINE: (),
    "no heat map": ("ZERO_HEATMAP", True),
    "no temporal feature": ("REPEAT_FRAME", True),
    "only frame t - 1": ("MAX_AGE", 0),
    "any class": ("SAME_CLASS", False),
    "as printed": (
        *("GATE", "none", "SAME_CLASS", False, "MAX_AGE", 0),
        *("MIN_AREA", 1, "MIN_FREE", 0.0),
    ),
    "centres, no vectors": ("LINK", "centre"),
    "box IoU >= 0.01": ("LINK", "box_iou", "LINK_IOU", 0.01),
    "box IoU >= 0.1": ("LINK", "box_iou", "LINK_IOU", 0.1),
    "box IoU >= 0.3": ("LINK", "box_iou", "LINK_IOU", 0.3),
    "box IoU >= 0.5": ("LINK", "box_iou", "LINK_IOU", 0.5),
}


Results = dict[str, tuple[Any, VideoResult]]  # video name -> (video id, result)


def segment(cfgs: dict[str, CfgNode], name: str) -> dict[str, Results]:
    """Return the results of every variant on a data set, ``{variant: results}``.

    The baseline goes first; variants that leave the network alone take its outputs over.
    """
    models = {}
    for variant, cfg in cfgs.items():
        model = models[variant] = build_model(cfg).eval()
        load_weights(model, cfg.MODEL.WEIGHTS)
    run_network, outputs = models[BASELINE].run_network, {}

    def remembered(frames: Sequence[Frame]) -> list[NetworkOutput]:
        missing = [frame for frame in frames if frame.index not in outputs]
        if missing:
            outputs.update(zip([frame.index for frame in missing], run_network(missing)))
        return [outputs[frame.index] for frame in frames]

    for model in models.values():
        if not model.options.repeat_frame:
            model.run_network = remembered
    results: dict[str, Results] = {variant: {} for variant in models}
    for (item,) in build_test_loader(cfgs[BASELINE], name):
        outputs.clear()
        for variant, model in models.items():
            results[variant][item["name"]] = (item["video_id"], model([item])[0])
    return results


def score_ap(name: str, results: Results) -> tuple[Metric, int]:
    """AP on a YouTube-VIS style data set, by videos, and their number."""
    metadata = get_metadata(name)
    to_id = {v: k for k, v in metadata.thing_dataset_id_to_contiguous_id.items()}
    entries = [
        {
            "video_id": video_id,
            "category_id": to_id[category],
            "score": score,
            "segmentations": track.masks,
        }
        for video_id, result in results.values()
        for track in result.tracks
        for category, score in track.category_scores.items()
    ]
    matches = match_tracks(ground_truth(name), entries)
    return ap_metric(matches, scale=100), len(matches.truth.videos)


def score_jf(name: str, results: Results) -> tuple[Metric, int]:
    """J&F under the unsupervised protocol, by sequences, and their number."""
    truth = ground_truth(name)
    maps = {v: np.stack(list(result.label_maps(20))) for v, (_, result) in results.items()}
    report = evaluate_davis_maps({v: truth[v] for v in maps}, maps, protocol="unsup")
    return jf_metric(report, scale=100)


def ground_truth(name: str) -> Any:
    """Return a data set's ground truth in memory.

    Raises:
        InputError: it has none.
    """
    make = get_metadata(name).get("ground_truth_fn", None)
    if make is None:
        raise InputError(f"{name} has no ground truth in memory: use a synthetic data set")
    return make()


def measure(cfgs: dict[str, CfgNode]) -> dict[str, dict[str, tuple[Metric, int]]]:
    """Return ``{variant: {"AP" or "J&F": (metric, number of videos)}}``."""
    out: dict[str, dict[str, tuple[Metric, int]]] = {variant: {} for variant in cfgs}
    results = None
    for name in cfgs[BASELINE].DATASETS.TEST:
        kind = get_metadata(name).evaluator_type
        if kind not in ("ytvis", "davis_unsup"):
            raise InputError(f"{name}: evaluator {kind} is neither ytvis nor davis_unsup")
        if results is None or kind == "ytvis":  # a UVOS set shows the same videos
            results = segment(cfgs, name)
        label, score = ("AP", score_ap) if kind == "ytvis" else ("J&F", score_jf)
        for variant in cfgs:
            out[variant][label] = score(name, results[variant])
    return out


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--samples", type=int, default=1000, help="bootstrap draws")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--opts", nargs="+", default=[], help="KEY VALUE pairs")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    cfgs = {}
    for variant in dict.fromkeys([BASELINE, *args.variants]):
        switches = VARIANTS[variant]
        opts = [*args.opts, "MODEL.WEIGHTS", args.weights]
        for key, value in zip(switches[::2], switches[1::2]):
            opts += [f"MODEL.SRNET.TEST.{key}", str(value)]
        cfg = load_config(args.config_file, opts)
        if SRNet.__name__ != cfg.MODEL.META_ARCHITECTURE:
            raise InputError(f"{args.config_file} is no SRNet: only it has these switches")
        cfgs[variant] = cfg
    measured = measure(cfgs)
    rows, report = [], {}
    for variant, metrics in measured.items():
        report[variant] = {}
        for label, (metric, videos) in metrics.items():
            base = measured[BASELINE][label][0]
            value = metric(np.ones(videos, int))
            own = bootstrap(metric, videos, samples=args.samples)
            lead = bootstrap(lambda w, m=metric, b=base: b(w) - m(w), videos, samples=args.samples)
            interval, behind = (f"{i.low:.1f} .. {i.high:.1f}" for i in (own, lead))
            rows.append([variant, label, f"{value:.1f}", interval, behind])
            report[variant][label] = {
                "value": value,
                "interval": own[1:],
                "lead_of_baseline": lead[0],
                "lead_interval": lead[1:],
            }
    heads = ["variant", "metric", "value", "95 % interval", "lead of the baseline"]
    print(tabulate(rows, heads, tablefmt="pipe"))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    with one_line_errors("compare_srnet_switches.py"):
        main()
