"""Matching of tracks to objects and average precision / recall over them.

Letters: K classes, R ranges (of size or occlusion), S IoU thresholds, D tracks, G objects,
M limits on the number of tracks, N tracks of a class in all videos.

Semantics: the official YouTube-VIS evaluator, `docs/metrics.md`. Loops over ranges, thresholds and
objects are array operations; the one loop left runs over the tracks that reach an IoU of 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0, 1, 101)
EPSILON = np.spacing(1)  # 2^-52


@dataclass
class VideoMatches:
    """Tracks and objects of one class in one video.

    Attributes:
        video: index of the video in ascending order of ids.
        scores: float64 (D,), descending.
        matched, ignored: bool (R, S, D).
        num_objects: int (R,), objects that count.
    """

    video: int
    scores: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    num_objects: np.ndarray


@dataclass
class Curves:
    """Precision (S, 101, K, R, M) and final recall (S, K, R, M); -1 where there is no object."""

    precision: np.ndarray
    recall: np.ndarray


def match(
    iou: np.ndarray, crowd: np.ndarray, gt_ignored: np.ndarray, track_outside: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Match tracks to objects greedily, in the tracks' order.

    Args:
        iou: (D, G), tracks by descending score, objects in file order.
        crowd: bool (G,).
        gt_ignored: bool (R, G), crowd or outside the range.
        track_outside: bool (R, D).

    Returns:
        matched, ignored: bool (R, S, D).

    A track takes the counted object with the highest IoU above the threshold, else an ignored
    one; of equal IoUs the last object wins. An object is taken once, a crowd any number of times.
    """
    num_ranges, (num_tracks, num_objects) = len(gt_ignored), iou.shape
    lanes = (num_ranges, len(IOU_THRESHOLDS))
    matched = np.zeros((*lanes, num_tracks), dtype=bool)
    ignored = np.repeat(track_outside[:, None], lanes[1], axis=1)
    if not num_objects:
        return matched, ignored
    # objects reversed: argmax then returns the last of equal ones
    reversed_iou = iou[:, ::-1]
    counted = ~gt_ignored[:, None, ::-1]
    single = ~crowd[::-1]
    free = np.ones((*lanes, num_objects), dtype=bool)
    thresholds = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)[:, None]
    for d in np.flatnonzero(iou.max(axis=1) >= thresholds[0]):
        possible = free & (reversed_iou[d] >= thresholds)
        preferred = possible & counted
        certain = preferred.any(axis=2)  # a counted object beats an ignored one whatever the IoU
        chosen = np.where(certain[:, :, None], preferred, possible)
        best = np.where(chosen, reversed_iou[d], -1.0).argmax(axis=2)
        hit = possible.any(axis=2)
        matched[:, :, d] = hit
        ignored[:, :, d] = np.where(hit, ~certain, ignored[:, :, d])
        taken = hit & single[best]
        r, s = np.nonzero(taken)
        free[r, s, best[r, s]] = False
    return matched, ignored


def accumulate(
    classes: Sequence[Sequence[VideoMatches]],
    max_dets: Sequence[int],
    *,
    num_ranges: int,
    video_weights: np.ndarray | None = None,
) -> Curves:
    """Join the videos of each class into precision and recall.

    Args:
        classes: per class its videos, in ascending order.
        max_dets: how many tracks of a video count, ascending.
        num_ranges: R.
        video_weights: int, how often each video counts; default once.
    """
    shape = (len(IOU_THRESHOLDS), len(classes), num_ranges, len(max_dets))
    recall = -np.ones(shape)
    precision = -np.ones((shape[0], len(RECALL_THRESHOLDS), *shape[1:]))
    for k, videos in enumerate(classes):
        weights = [1 if video_weights is None else int(video_weights[v.video]) for v in videos]
        totals = sum((w * v.num_objects for w, v in zip(weights, videos)), np.zeros(num_ranges))
        ranges = np.flatnonzero(totals > 0)
        if not len(ranges):
            continue
        for m, limit in enumerate(max_dets):
            curve, final = _class_curve(videos, weights, limit, totals[ranges], ranges)
            precision[:, :, k, ranges, m] = curve
            recall[:, k, ranges, m] = final
    return Curves(precision, recall)


def _class_curve(
    videos: Sequence[VideoMatches],
    weights: Sequence[int],
    limit: int,
    totals: np.ndarray,
    ranges: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return precision (S, 101, R) and recall (S, R) of one class in the chosen ranges.

    A video of weight w stands for w copies; all copies of a track follow each other in the order
    of scores, and of equal ones only the last can raise the curve, so that weighted sums give the
    same curve as copies would.
    """
    scores = np.concatenate([v.scores[:limit] for v in videos])
    order = np.argsort(-scores, kind="stable")
    weight = np.repeat(weights, [len(v.scores[:limit]) for v in videos])[order]
    matched = np.concatenate([v.matched[ranges, :, :limit] for v in videos], axis=2)
    counts = ~np.concatenate([v.ignored[ranges, :, :limit] for v in videos], axis=2)[:, :, order]
    matched = matched[:, :, order]
    tp = np.cumsum((matched & counts) * weight, axis=2, dtype=np.float64)
    fp = np.cumsum((~matched & counts) * weight, axis=2, dtype=np.float64)
    recall = tp / totals[:, None, None]
    precision = tp / (fp + tp + EPSILON)
    precision = np.maximum.accumulate(precision[:, :, ::-1], axis=2)[:, :, ::-1]
    # one place past the end: precision 0 where a recall is never reached
    precision = np.concatenate([precision, np.zeros((*precision.shape[:2], 1))], axis=2)
    curve = np.empty((recall.shape[1], len(RECALL_THRESHOLDS), len(ranges)))
    for r in range(len(ranges)):
        for s in range(recall.shape[1]):
            places = np.searchsorted(recall[r, s], RECALL_THRESHOLDS, side="left")
            curve[s, :, r] = precision[r, s, places]
    final = recall[:, :, -1] if recall.shape[2] else np.zeros(recall.shape[:2])
    return curve, final.T


def mean_of_valid(values: np.ndarray) -> float:
    """Mean over the entries above -1; NaN if there is none."""
    values = values[values > -1]
    return float(np.mean(values)) if len(values) else float("nan")
