"""Are SRNet's tracking vectors right, and do they link better than vectors that are zero?

python -m benchmarks srnet_vectors --weights output/srnet_quickstart/model_final.pth [--stride 1 2]

With the true masks of both frames and the heat map of the true centres, so that nothing but the
vectors is judged. A row compares frames t - s and t of every video: the length of the true vectors
(the error of a zero vector) and the error of the learned ones, in grid units; the slope of learned
on true vectors; the share of objects seen in both frames that Algorithm 1 (one frame of memory, no
gate) gives their id with vectors that are zero, learned or true. Intervals are 95 %, by drawing
videos. --repeated also looks at frame t twice: what the heat map alone says.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch.nn import functional as F

from vis_projects.config import load_config
from vis_projects.data import frame_source, load_videos
from vis_projects.srnet import SRNet
from vis_projects.srnet.association import Association, CentreAssociation, TrackMemory
from vis_projects.srnet.heat_map import render_heat_map
from vis_projects.srnet.instances import Detections, describe
from vis_projects.srnet.model import NetworkOutput
from vis_projects.srnet.targets import at_stride
from vis_projects.weights import build_for_test

DRAWS = 2000
LINKS = ("zero", "learned", "true")


class Vectors:
    """The network's tracking vectors on a video's true masks.

    Args:
        model: in evaluation mode.
        video: a data set's entry with label maps.
    """

    def __init__(self, model: SRNet, video: dict[str, Any]) -> None:
        self.model = model
        source = frame_source(video, image_format=model.input_format)
        images = model.preprocess([source[t] for t in range(video["length"])])
        self.size, self.image_size = tuple(images.tensor.shape[-2:]), images.image_sizes[0]
        self.features = model.backbone(images.tensor)
        ids = torch.tensor([o["id"] for o in video["objects"]])
        self.masks = [
            self._cells(torch.from_numpy(video["annotations"].label_map(t).astype(np.int64)), ids)
            for t in range(video["length"])
        ]

    def _cells(self, labels: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Masks (N, h, w) of the objects at stride 4."""
        masks = (labels[None] == ids[:, None, None]).float()
        return at_stride(F.interpolate(masks[None], self.image_size, mode="nearest")[0], self.size)

    def at(self, t: int, before: int, *, repeated: bool = False) -> tuple[Detections, Detections]:
        """The objects of frame ``before`` and those of frame t with their vectors."""
        level = self.features["p5"][t if repeated else before][None]
        x = self.model.decoder({k: v[t : t + 1] for k, v in self.features.items()}, level)
        raw = {k: v[0] for k, v in self.model.heads(x, lazy=True).items()}
        maps = self.model._head_maps(NetworkOutput(x[0], raw, self.image_size))
        last = self._describe(self.masks[before], maps)
        maps.heat_map = render_heat_map(
            last.point,
            last.shape.height,
            last.shape.width,
            tuple(maps.objectness.shape),
            present=last.present,
            bowl=self.model.post_processing.bowl,
        )
        maps.with_heat_map = None
        return last, self._describe(self.masks[t], maps)

    def _describe(self, masks: torch.Tensor, maps: Any) -> Detections:
        present = masks.flatten(1).any(1)
        return describe(masks, present, present.float(), maps)


def right_links(last: Detections, now: Detections) -> list[int]:
    """Objects of both frames that get their id with zero, learned and true vectors."""
    both = last.present & now.present
    true = replace(now, tracking=torch.where(both[:, None], last.centre, now.centre))
    counts = []
    for kind, found in zip((CentreAssociation, Association, Association), (now, now, true)):
        rule = kind(gate="none")
        before, memory = rule(TrackMemory.empty(), replace(last, category_sums=None))
        after, _ = rule(memory, replace(found, category_sums=None))
        counts.append(int(((before == after) & both).sum()))
    return counts


def sums_of_video(vectors: Vectors, stride: int, *, repeated: bool) -> np.ndarray:
    """Objects, |true|, |error|, learned x true, true x true, learned x learned, right links."""
    total = np.zeros(6 + len(LINKS))
    for t in range(stride, len(vectors.masks)):
        last, now = vectors.at(t, t - stride, repeated=repeated)
        both = last.present & now.present
        true = (last.centre - now.centre)[both].double()
        learned = (now.tracking - now.centre)[both].double()
        moved, error = (v.norm(dim=1).sum().item() for v in (true, learned - true))
        products = [float((a * b).sum()) for a, b in ((learned, true), (true, true))]
        total += [int(both.sum()), moved, error, *products, float(learned.square().sum()),
                  *right_links(last, now)]  # fmt: skip
    return total


def figures(sums: np.ndarray) -> dict[str, float]:
    """The figures of sums (9,) over videos."""
    n, moved, error, cross, true, learned, *links = sums
    shares = {f"links_{name}": 100 * count / n for name, count in zip(LINKS, links)}
    return {
        "motion": moved / n,
        "error": error / n,
        "slope": cross / true,
        "correlation": cross / np.sqrt(true * learned),
        **shares,
        "learned_minus_zero": shares["links_learned"] - shares["links_zero"],
    }


def with_intervals(rows: np.ndarray) -> dict[str, Any]:
    """Figures of per-video sums (V, 9), with 95 % intervals of slope and lead."""
    out: dict[str, Any] = {"objects": int(rows[:, 0].sum()), **figures(rows.sum(0))}
    picks = np.random.default_rng(0).integers(0, len(rows), (DRAWS, len(rows)))
    drawn = [figures(rows[p].sum(0)) for p in picks]
    for key in ("slope", "learned_minus_zero"):
        low, high = np.percentile([d[key] for d in drawn], [2.5, 97.5])
        out[f"{key}_interval"] = [float(low), float(high)]
    return out


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks srnet_vectors",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", default="configs/srnet/quickstart_synthetic.yaml")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--dataset", default="synthetic_val", help="a synthetic set")
    parser.add_argument("--stride", type=int, nargs="+", default=[1, 2, 3, 4], metavar="S")
    parser.add_argument("--repeated", action="store_true", help="also frame t in place of t - s")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("opts", nargs="*", help="KEY VALUE overrides, after --")
    args = parser.parse_args(argv)
    cfg = load_config(args.config_file, [*args.opts, "MODEL.WEIGHTS", args.weights])
    model, _ = build_for_test(cfg)
    runs = [(s, r) for s in args.stride for r in ((False, True) if args.repeated else (False,))]
    rows: dict[tuple[int, bool], list[np.ndarray]] = {run: [] for run in runs}
    with torch.no_grad():
        for video in load_videos(args.dataset):
            vectors = Vectors(model, video)
            for stride, repeated in runs:
                rows[stride, repeated].append(sums_of_video(vectors, stride, repeated=repeated))
    table, report = [], {}
    for (stride, repeated), sums in rows.items():
        found = with_intervals(np.stack(sums))
        report[f"{stride}{' repeated' if repeated else ''}"] = found
        low, high = found["slope_interval"]
        lead_low, lead_high = found["learned_minus_zero_interval"]
        table.append(
            [f"{stride}{', repeated' if repeated else ''}", f"{found['motion']:.3f}",
             f"{found['error']:.3f}", f"{found['slope']:.2f} ({low:.2f} .. {high:.2f})",
             f"{found['correlation']:.2f}", *(f"{found[f'links_{n}']:.2f}" for n in LINKS),
             f"{found['learned_minus_zero']:.2f} ({lead_low:.2f} .. {lead_high:.2f})"]
        )  # fmt: skip
    heads = ["stride", "motion", "error", "slope", "correlation", "zero %", "learned %", "true %",
             "learned - zero"]  # fmt: skip
    print(tabulate(table, heads, tablefmt="pipe", disable_numparse=True))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))
