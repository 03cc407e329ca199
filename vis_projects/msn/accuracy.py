"""How often a selection network picks the better mask (MSN, Table 1).

python -m vis_projects.msn.accuracy --config-file C --weights W [--json FILE] [KEY VALUE ...]

Two sets of pairs: "val" is balanced, "val_all" as the pipeline produced them, where always taking
one kind of mask is a stronger rule. Accuracy is also shown by the gap between the IoUs of the two
masks: where it is small there is little to see and little to win.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import load_config
from ..structures import one_line_errors
from ..weights import build_for_test
from .chooser import MaskChooser
from .selection_pairs import FrameReader, Pair, masks_of_pair, read_pairs

GAPS = (0.0, 0.02, 0.05, 0.1, 0.2)  # lower ends of the ranges of |iou_a - iou_b|


@torch.no_grad()
def pair_accuracy(
    chooser: MaskChooser, pairs: Sequence[Pair], *, reader: FrameReader | None = None
) -> dict[str, Any]:
    """Shares (0..1) of pairs decided rightly, with a 95 % interval from resampled videos.

    "always_propagation" and "always_segmentation" are the two trivial rules; "by_gap" holds
    (lower end, pairs, accuracy or None) for the ranges of ``GAPS``.
    """
    reader = reader or FrameReader()
    device = next(chooser.network.parameters()).device
    right = np.zeros(len(pairs), bool)
    truth = np.array([p["iou_a"] >= p["iou_b"] for p in pairs])
    for k, pair in enumerate(pairs):
        masks = [m.to(device) for m in masks_of_pair(pair)]
        probability = chooser.probability(reader.image(pair).to(device), *masks)
        right[k] = bool(probability[0] >= 0.5) == truth[k]
    low, high = _interval(right, [f"{p['dataset']}/{p['video']}" for p in pairs])
    return {
        "pairs": len(pairs),
        "accuracy": float(right.mean()),
        "low": low,
        "high": high,
        "always_propagation": float(truth.mean()),
        "always_segmentation": float(1 - truth.mean()),
        "by_gap": _by_gap(right, pairs),
    }


def _by_gap(right: np.ndarray, pairs: Sequence[Pair]) -> list[tuple[float, int, float | None]]:
    gaps = np.array([abs(p["iou_a"] - p["iou_b"]) for p in pairs])
    rows: list[tuple[float, int, float | None]] = []
    for low, high in zip(GAPS, (*GAPS[1:], np.inf)):
        inside = (gaps >= low) & (gaps < high)
        count = int(inside.sum())
        rows.append((low, count, float(right[inside].mean()) if count else None))
    return rows


def _interval(right: np.ndarray, videos: Sequence[str], draws: int = 1000) -> tuple[float, float]:
    """2.5 and 97.5 percentiles of the accuracy over resampled videos: pairs of one correlate."""
    names, group = np.unique(list(videos), return_inverse=True)
    hits, counts = np.bincount(group, right), np.bincount(group)
    picks = np.random.default_rng(0).integers(0, len(names), (draws, len(names)))
    share = hits[picks].sum(1) / counts[picks].sum(1)
    low, high = np.percentile(share, [2.5, 97.5])
    return float(low), float(high)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="of MaskSelectionNetwork")
    parser.add_argument("--weights", default="", help="default: MODEL.WEIGHTS")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("opts", nargs="*", help="KEY VALUE overrides")
    args = parser.parse_args(argv)
    cfg = load_config(args.config_file, args.opts)
    options = cfg.MODEL.MSN.SELECTOR
    cfg.MODEL.WEIGHTS = args.weights or cfg.MODEL.WEIGHTS
    model, _ = build_for_test(cfg)
    chooser = MaskChooser(
        model.selector,
        size=options.SIZE,
        crop=options.CROP,
        aggregate=options.AGGREGATE,
        symmetric=options.SYMMETRIC,
    )
    figures = {
        part: pair_accuracy(chooser, read_pairs(options.PAIRS, part)) for part in ("val", "val_all")
    }
    for part, f in figures.items():
        print(
            f"{part}: {f['pairs']} pairs, accuracy {100 * f['accuracy']:.1f} % "
            f"[{100 * f['low']:.1f}, {100 * f['high']:.1f}], always the propagated mask "
            f"{100 * f['always_propagation']:.1f} %, always the segmented mask "
            f"{100 * f['always_segmentation']:.1f} %"
        )
        shown = [f"{low:g}: {100 * a:.1f} % of {n}" for low, n, a in f["by_gap"] if n]
        print(f"{part} by gap in IoU from {', '.join(shown)}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    with one_line_errors("accuracy"):
        main()
