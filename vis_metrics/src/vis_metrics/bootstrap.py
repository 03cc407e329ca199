"""Confidence intervals of AP and J&F by resampling videos (Efron's percentile bootstrap).

Videos are drawn with replacement, as many as there are, and the metric is computed anew on each
draw; the interval is between percentiles of these values. Everything follows from the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .average_precision import ClassTracks, mean_of_valid
from .video_pool import watched
from .ytvis import TrackMatches, match_tracks

# From how often each video counts, int (num_videos,), to a value.
Metric = Callable[[np.ndarray], float]


class Interval(NamedTuple):
    """Mean of the resampled values and the ends of the interval; NaN without any value."""

    mean: float
    low: float
    high: float


def bootstrap(
    metric: Metric,
    num_videos: int,
    *,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    progress: bool = False,
) -> Interval:
    """Resample videos and return the interval of a metric.

    Args:
        metric: draws with a NaN value are left out.
        num_videos: how many videos there are.
        samples: how many draws.
        seed: of the draws.
        confidence: share of the values inside the interval.
        progress: show a bar.
    """
    if not 0 < confidence < 1 or samples < 1:
        raise ValueError("confidence must lie between 0 and 1, samples must be positive")
    rng = np.random.default_rng(seed)
    values = []
    for _ in watched(range(samples), "bootstrap", "draw", shown=progress):
        drawn = rng.integers(num_videos, size=num_videos) if num_videos else np.zeros(0, int)
        values.append(metric(np.bincount(drawn, minlength=num_videos)))
    kept = np.array([value for value in values if not np.isnan(value)])
    if not len(kept):
        return Interval(float("nan"), float("nan"), float("nan"))
    tail = 50 * (1 - confidence)
    low, high = np.percentile(kept, [tail, 100 - tail])
    return Interval(float(kept.mean()), float(low), float(high))


def bootstrap_ytvis(
    ground_truth: Path | Mapping[str, Any],
    results: Path | Sequence[Mapping[str, Any]],
    **options: Any,
) -> Interval:
    """Return the interval of AP; ``options`` as ``bootstrap``, errors as ``evaluate_ytvis``."""
    return bootstrap_matches(match_tracks(ground_truth, results), **options)


def bootstrap_matches(matches: TrackMatches, **options: Any) -> Interval:
    """Return the interval of AP of tracks that are matched already."""
    return bootstrap(ap_metric(matches), len(matches.truth.videos), **options)


def ap_metric(matches: TrackMatches, *, scale: float = 1.0) -> Metric:
    """Return AP times ``scale`` as a function of how often each video counts."""
    classes = [ClassTracks(videos, matches.max_dets[-1], 1) for videos in matches.classes]

    def metric(weights: np.ndarray) -> float:
        return scale * mean_of_valid(np.stack([tracks.curve(weights)[0] for tracks in classes]))

    return _remembering(metric)


def bootstrap_davis(report: Mapping[str, Any], **options: Any) -> Interval:
    """Return the interval of J&F from what ``evaluate_davis`` returned; sequences are resampled."""
    metric, count = jf_metric(report)
    return bootstrap(metric, count, **options)


def jf_metric(report: Mapping[str, Any], *, scale: float = 1.0) -> tuple[Metric, int]:
    """Return J&F times ``scale`` as a function of how often each sequence counts, and their number.

    The mean runs over the objects of the sequences that were drawn.
    """
    sequences: dict[str, list[float]] = {}
    for name, row in report["per_object"].items():
        sequence = name if "encoding" in report else name.rsplit("_", 1)[0]
        value = (row["J-Mean"] + row["F-Mean"]) / 2
        if not np.isnan(value):
            sequences.setdefault(sequence, []).append(value)
    sums = np.array([sum(values) for values in sequences.values()])
    counts = np.array([len(values) for values in sequences.values()])

    def metric(weights: np.ndarray) -> float:
        return float(scale * (weights * sums).sum() / (weights * counts).sum())

    return _remembering(metric), len(sequences)


def _remembering(metric: Metric) -> Metric:
    """Compute a metric once per draw: an interval and a lead over it take the same draws."""
    known: dict[bytes, float] = {}

    def look_up(weights: np.ndarray) -> float:
        key = weights.tobytes()
        if key not in known:
            known[key] = metric(weights)
        return known[key]

    return look_up
