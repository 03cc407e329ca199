"""Metrics of finished results, x 100, under the names that logs and result dicts use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vis_metrics.bootstrap import bootstrap_davis, bootstrap_matches
from vis_metrics.identity import evaluate_identity
from vis_metrics.validate import validate_ytvis_results
from vis_metrics.ytvis import match_tracks, summarize

TRACK_KEYS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100")
MASK_KEYS = ("J-Mean", "F-Mean", "J-Recall", "J-Decay", "F-Recall", "F-Decay")


def percent(value: float | None) -> float:
    """Return a fraction x 100; NaN for what cannot be averaged."""
    return float("nan") if value is None or value == -1 else 100 * value


def track_scores(
    truth: Path | str | Mapping[str, Any], entries: Sequence[dict[str, Any]], *, bootstrap: int = 0
) -> dict[str, float]:
    """Return AP, AR, identity and AP per class of a YouTube-VIS result list.

    ``bootstrap``: draws of videos for the interval ``AP_low, AP_high``.
    """
    validate_ytvis_results(entries, truth)
    matches = match_tracks(truth, entries)
    stats = summarize(matches, matches.curves())
    scores = {key: percent(stats[key]) for key in TRACK_KEYS}
    if bootstrap:
        interval = bootstrap_matches(matches, samples=bootstrap)
        scores.update(AP_low=percent(interval.low), AP_high=percent(interval.high))
    identity = evaluate_identity(truth, entries)
    scores.update(IDF1=percent(identity["IDF1"]), IDSW=float(identity["IDSW"]))
    per_category = {f"AP-{name}": percent(v) for name, v in stats["per_category"].items()}
    return {**scores, **per_category}


def mask_scores(stats: Mapping[str, Any], *, bootstrap: int = 0) -> dict[str, float]:
    """Return J&F, J and F, and J&F per object, of what ``evaluate_davis`` returned."""
    scores = {"J&F": percent(stats["J&F-Mean"])}
    for key in MASK_KEYS:
        scores[key.replace("-Mean", "").replace("-", "_")] = percent(stats[key])
    if bootstrap:
        interval = bootstrap_davis(stats, samples=bootstrap)
        scores["J&F_low"], scores["J&F_high"] = map(percent, (interval.low, interval.high))
    per_object = {
        f"J&F-{name}": percent((row["J-Mean"] + row["F-Mean"]) / 2)
        for name, row in stats["per_object"].items()
    }
    return {**scores, **per_object}


def group_scores(stats: Mapping[str, Any]) -> dict[str, float]:
    """Return G and its parts of what ``evaluate_ytvos`` returned."""
    return {k.replace("-", "_"): percent(v) for k, v in stats.items() if isinstance(v, float)}
