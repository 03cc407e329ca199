#!/usr/bin/env python
"""How much the association is worth: the same CrossVIS detections, linked by several rules.

python tools/compare_association.py --config-file configs/quickstart.yaml \\
    --weights output/quickstart/model_final.pth

Prints AP of every rule with a 95 % bootstrap interval over videos, and the interval of its lead
over linking by box IoU alone (both on the same draws).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from detectron2.modeling import build_model
from tabulate import tabulate

from vis_metrics.bootstrap import ap_metric, bootstrap
from vis_metrics.ytvis import match_tracks
from vis_projects.config import load_config
from vis_projects.crossvis import CrossVIS
from vis_projects.crossvis.association import RULES
from vis_projects.data import build_test_loader, get_metadata
from vis_projects.engine import load_weights
from vis_projects.evaluation.video_evaluator import VideoEvaluator
from vis_projects.structures import InputError, one_line_errors

BASELINE = "iou"


def link(cfg, model: CrossVIS, rule: str, folder: Path) -> Path:
    """Run the test set with one rule and return its result file."""
    from detectron2.evaluation import inference_on_dataset

    model.gallery.rule = rule
    name = cfg.DATASETS.TEST[0]
    evaluator = VideoEvaluator(get_metadata(name), folder / rule)
    inference_on_dataset(model, build_test_loader(cfg, name), evaluator)
    return folder / rule / "results.json"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--weights", default="", help="by default MODEL.WEIGHTS")
    parser.add_argument(
        "--rules",
        nargs="+",
        choices=RULES,
        default=["crossvis", "masktrack"],
        help="compared with box IoU alone",
    )
    parser.add_argument("--samples", type=int, default=1000, help="bootstrap draws")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--opts", nargs="+", default=[], help="KEY VALUE pairs")
    args = parser.parse_args(argv)
    opts = [*args.opts, *(["MODEL.WEIGHTS", args.weights] if args.weights else [])]
    cfg = load_config(args.config_file, opts)
    if not cfg.MODEL.WEIGHTS:
        raise InputError("which weights? give --weights")
    truth_of = get_metadata(cfg.DATASETS.TEST[0])
    truth = truth_of.get("ground_truth_fn", None)
    truth = truth() if truth is not None else truth_of.get("json_file", None)
    if truth is None:
        raise InputError(f"{cfg.DATASETS.TEST[0]} has no ground truth to score with")
    model = build_model(cfg).eval()
    if not isinstance(model, CrossVIS):
        raise InputError(f"{args.config_file} is no CrossVIS: only it has association rules")
    load_weights(model, cfg.MODEL.WEIGHTS)
    folder = Path(cfg.OUTPUT_DIR) / "association"
    metrics, videos = {}, 0
    for rule in dict.fromkeys([BASELINE, *args.rules]):
        matches = match_tracks(truth, link(cfg, model, rule, folder))
        metrics[rule], videos = ap_metric(matches, scale=100), len(matches.truth.videos)
    rows, report = [], {}
    for rule, metric in metrics.items():
        whole = metric(np.ones(videos, int))
        own = bootstrap(metric, videos, samples=args.samples)
        lead = bootstrap(
            lambda w, m=metric: m(w) - metrics[BASELINE](w), videos, samples=args.samples
        )
        rows.append([rule, f"{whole:.1f}", *(f"{a:.1f} .. {b:.1f}" for _, a, b in (own, lead))])
        report[rule] = {
            "AP": whole,
            "interval": own[1:],
            "lead": lead[0],
            "lead_interval": lead[1:],
        }
    print(tabulate(rows, ["rule", "AP", "95 % interval", "lead over IoU"], tablefmt="pipe"))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    with one_line_errors("compare_association.py"):
        main()
