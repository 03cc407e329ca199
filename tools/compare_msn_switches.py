#!/usr/bin/env python
"""What the parts of MSN are worth (Table 4), beside detections linked by IoU alone.

python tools/compare_msn_switches.py --config-file configs/msn/quickstart_synthetic.yaml \\
    --weights output/msn_quickstart.pth [--videos 50] [--variants ...] [--json FILE]

Runs one set of weights several times over the first data set of DATASETS.TEST and prints AP (x 100)
with a 95 % bootstrap interval over videos, and the interval of the difference from the full
pipeline on the same draws. What variants have in common is computed once per video: detections,
features, predictions of CFBI from the same state, and whole directions.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tabulate import tabulate

from vis_metrics.bootstrap import Metric, ap_metric, bootstrap
from vis_metrics.ytvis import match_tracks
from vis_projects.cfbi.propagator import CFBIPropagator
from vis_projects.config import load_config
from vis_projects.data import frame_source, get_metadata
from vis_projects.data.catalog import Video, load_videos
from vis_projects.engine import load_weights
from vis_projects.modeling import FeatureCache, Propagator
from vis_projects.msn.association import best_pairs, class_and_score, mask_iou
from vis_projects.msn.detections import Detections
from vis_projects.msn.direction import Direction
from vis_projects.msn.selection_pairs import true_masks
from vis_projects.msn.shared_predictions import SharedPredictions
from vis_projects.structures import Frame, FrameSource, InputError, VideoInfo, one_line_errors

FULL, LINKED = "full pipeline", "detections linked by IoU"
VARIANTS: dict[str, tuple[str, ...]] = {
    FULL: (),
    "selection: always propagation": ("MODEL.MSN.SELECT", "propagation"),
    "selection: always segmentation": ("MODEL.MSN.SELECT", "segmentation"),
    "selection: oracle": ("MODEL.MSN.SELECT", "oracle"),
    "merging: forward mask": ("MODEL.MSN.MERGE_CHOICE", "forward"),
    "forward only": ("MODEL.MSN.DIRECTIONS", "forward"),
    "backward only": ("MODEL.MSN.DIRECTIONS", "backward"),
    "new objects: any class blocks": ("MODEL.MSN.NEW_OBJECT_RULE", "any_class"),
    "new objects: nothing blocks": ("MODEL.MSN.NEW_OBJECT_RULE", "always"),
    "human-object on": ("MODEL.MSN.HUMAN_OBJECT", "True"),
    "CFBI: two scales and flip": ("MODEL.CFBI.SCALES", "(1.0, 1.3)", "MODEL.CFBI.FLIP", "True"),
}


def link(found: Sequence[Detections], threshold: float = 0.3) -> list[dict[str, Any]]:
    """Tracks of detections alone: the best IoU with the track's last mask, of the same class."""
    tracks: list[dict[str, Any]] = []
    for t, frame in enumerate(found):
        masks = frame.masks(torch.device("cpu"))
        taken = set()
        if tracks and len(frame):
            iou = mask_iou(masks, torch.stack([k["last"] for k in tracks]))
            same = torch.tensor(frame.classes)[:, None] == torch.tensor(
                [k["detections"][0][1] for k in tracks]
            )
            for i, j in best_pairs(iou * same, threshold):
                taken.add(i)
                tracks[j]["last"] = masks[i]
                tracks[j]["masks"][t] = frame.rles[i]
                tracks[j]["detections"].append((t, frame.classes[i], frame.scores[i]))
        for i in set(range(len(frame))) - taken:
            born = [(t, frame.classes[i], frame.scores[i])]
            tracks.append({"last": masks[i], "masks": {t: frame.rles[i]}, "detections": born})
    return tracks


class KeptFeatures(FeatureCache):
    """Features that outlive a run: of one video, for all variants."""

    def clear(self) -> None:
        """Keep them; ``forget`` drops them."""

    def forget(self) -> None:
        super().clear()


class Comparison:
    """Runs variants over the same videos and computes once what they have in common.

    Args:
        name: data set.
        configs: of the variants, by name.
        videos: only the first so many.
    """

    def __init__(self, name: str, configs: dict[str, CfgNode], videos: int | None = None) -> None:
        self.videos = load_videos(name)[:videos]
        self.metadata = get_metadata(name)
        make = self.metadata.get("ground_truth_fn", None)
        if make is None:
            raise InputError(f"{name} has no ground truth in memory: use a synthetic data set")
        kept = {v["video_id"] for v in self.videos}
        data = make()
        self.truth = {
            **data,
            "videos": [v for v in data["videos"] if v["id"] in kept],
            "annotations": [a for a in data["annotations"] if a["video_id"] in kept],
        }
        self.found: dict[int, Detections] = {}  # these two are of the current video
        self.directions: dict[tuple, Direction] = {}
        self.propagators: dict[str, Any] = {}
        self.caches: list[KeptFeatures] = []
        self.models = {variant: self._model(cfg) for variant, cfg in configs.items()}

    def _model(self, cfg: CfgNode) -> Any:
        model = build_model(cfg).eval()
        load_weights(model, cfg.MODEL.WEIGHTS)
        if model.select == "oracle":
            videos = {v["video_id"]: v for v in self.videos}
            model.ground_truth = lambda video, t: true_masks(videos[video], t)
        others = cfg.MODEL.clone()
        others.defrost()
        others.pop("MSN")
        options = others.dump()
        if options not in self.propagators:
            self.propagators[options] = self._shared(model.propagator)
        model.propagator = self.propagators[options]
        key = (model.select, model.switch_margin, model.rules, model.clean, options)
        self._share_results(model, key)
        return model

    def _shared(self, propagator: Propagator) -> Propagator:
        """Let CFBI keep features and predictions between runs; other kinds may depend on more."""
        if not isinstance(propagator, CFBIPropagator):
            return propagator
        propagator.feature_cache = KeptFeatures(math.inf)
        self.caches.append(propagator.feature_cache)
        return SharedPredictions(propagator)

    def _share_results(self, model: Any, key: tuple) -> None:
        """Detections are those of the first variant that asks; so are directions of equal rules."""
        detect, run = model.detections, model.one_direction

        def detections(frame: Frame) -> Detections:
            if frame.index not in self.found:
                self.found[frame.index] = detect(frame)
            return self.found[frame.index]

        def one_direction(source: FrameSource, backward: bool, **options: Any) -> Direction:
            if (key, backward) not in self.directions:
                self.directions[key, backward] = run(source, backward, **options)
            return self.directions[key, backward]

        model.detections, model.one_direction = detections, one_direction

    def run(self) -> dict[str, list[dict[str, Any]]]:
        """Tracks of every variant in the form of a YouTube-VIS result."""
        entries: dict[str, list] = {name: [] for name in (FULL, LINKED, *self.models)}
        predicted = recalled = 0
        for number, video in enumerate(self.videos, 1):
            for variant, model in self.models.items():
                source = frame_source(video, image_format=model.input_format)
                info = VideoInfo(source.size, source.length, "vis", video["video_id"])
                tracks = model.run_video(source, info=info).tracks
                entries[variant] += [
                    self._entry(video, k.category, k.score, k.masks) for k in tracks
                ]
            entries[LINKED] += self._linked(video)
            for propagator in self.propagators.values():
                predicted += getattr(propagator, "predicted", 0)
                recalled += getattr(propagator, "recalled", 0)
            self._forget()
            if number % 10 == 0 or number == len(self.videos):
                print(
                    f"{number} of {len(self.videos)} videos, {predicted} predictions computed, "
                    f"{recalled} recalled, {time.process_time():.0f} CPU-seconds",
                    file=sys.stderr,
                    flush=True,
                )
        return entries

    def _forget(self) -> None:
        self.found, self.directions = {}, {}
        for part in (*self.caches, *self.propagators.values()):
            if hasattr(part, "forget"):
                part.forget()

    def _linked(self, video: Video) -> list[dict[str, Any]]:
        """Tracks of the current video's detections alone."""
        length, out = video["length"], []
        for track in link([self.found[t] for t in range(length)]):
            masks = [track["masks"].get(t) for t in range(length)]
            out.append(self._entry(video, *class_and_score(track["detections"]), masks))
        return out

    def _entry(self, video: Video, category: int, score: float, masks: Any) -> dict[str, Any]:
        return {
            "video_id": video["video_id"],
            "category_id": self.metadata.contiguous_id_to_dataset_id[category],
            "score": score,
            "segmentations": masks,
        }

    def metric(self, entries: list[dict[str, Any]]) -> Metric:
        """AP x 100 as a function of how often each video counts."""
        return ap_metric(match_tracks(self.truth, entries), scale=100)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--videos", type=int, help="only the first so many")
    parser.add_argument("--samples", type=int, default=1000, help="bootstrap draws")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--opts", nargs="+", default=[], help="KEY VALUE pairs")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    base = load_config(args.config_file, args.opts)
    if not base.DATASETS.TEST:
        raise InputError("DATASETS.TEST names no data set to compare on")
    configs = {
        variant: load_config(
            args.config_file, [*args.opts, *VARIANTS[variant], "MODEL.WEIGHTS", args.weights]
        )
        for variant in dict.fromkeys([FULL, *args.variants])
    }
    comparison = Comparison(base.DATASETS.TEST[0], configs, args.videos)
    metrics: dict[str, Metric] = {}
    report: dict[str, Any] = {}
    for variant, entries in comparison.run().items():
        metrics[variant] = comparison.metric(entries)
        _report(variant, metrics, len(comparison.videos), args.samples, report)
    rows = [
        [
            name,
            f"{r['AP']:.1f}",
            f"{r['interval'][0]:.1f} .. {r['interval'][1]:.1f}",
            f"{r['minus_full']:+.1f}",
            f"{r['minus_full_interval'][0]:+.1f} .. {r['minus_full_interval'][1]:+.1f}",
        ]
        for name, r in report.items()
    ]
    heads = ["variant", "AP", "95 % interval", "minus full", "95 % interval"]
    print(tabulate(rows, heads, tablefmt="pipe", disable_numparse=True))
    print(f"{len(comparison.videos)} videos, {time.process_time():.0f} CPU-seconds")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


def _report(
    name: str, metrics: dict[str, Metric], videos: int, samples: int, report: dict[str, Any]
) -> None:
    metric, full = metrics[name], metrics[FULL]
    own = bootstrap(metric, videos, samples=samples)
    lead = bootstrap(lambda w: metric(w) - full(w), videos, samples=samples)
    every = np.ones(videos, int)
    report[name] = {
        "AP": metric(every),
        "interval": own[1:],
        "minus_full": metric(every) - full(every),
        "minus_full_interval": lead[1:],
    }
    print(f"{name}: AP {report[name]['AP']:.1f}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    with one_line_errors("compare_msn_switches.py"):
        main()
