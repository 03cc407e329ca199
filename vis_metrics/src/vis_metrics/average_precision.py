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


class ClassTracks:
    """All tracks of a class under one limit, sorted by score once and for all.

    Attributes:
        videos: int (V,), the videos' indices; ``objects`` (V, R), their counted objects.
        owner: int (N,), position in ``videos`` of each track.
        true, false: bool (R, S, N), what each track counts as; neither if it is ignored.
    """

    def __init__(self, matches: Sequence[VideoMatches], limit: int, num_ranges: int) -> None:
        self.videos = np.array([v.video for v in matches], dtype=np.int64)
        self.objects = np.array([v.num_objects[:num_ranges] for v in matches], dtype=np.int64)
        self.objects = self.objects.reshape(len(matches), num_ranges)
        sizes = [len(v.scores[:limit]) for v in matches]
        scores = np.concatenate([np.zeros(0), *(v.scores[:limit] for v in matches)])
        order = np.argsort(-scores, kind="stable")
        self.owner = np.repeat(np.arange(len(matches)), sizes)[order]
        empty = np.zeros((num_ranges, len(IOU_THRESHOLDS), 0), dtype=bool)
        parts = [empty, *(v.matched[:num_ranges, :, :limit] for v in matches)]
        matched = np.concatenate(parts, axis=2)[:, :, order]
        parts = [empty, *(v.ignored[:num_ranges, :, :limit] for v in matches)]
        counts = ~np.concatenate(parts, axis=2)[:, :, order]
        self.true = matched & counts
        self.false = ~matched & counts

    def curve(self, video_weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return precision (S, 101, R) and recall (S, R); -1 in ranges without objects.

        A video of weight w stands for w copies. All copies of a track follow each other in the
        order of scores, and only the last of them can raise the curve, so that weighted sums give
        the same curve as copies would (up to the order of equal scores within a video).
        """
        true, false, objects = self.true, self.false, self.objects
        if video_weights is not None:
            weights = np.asarray(video_weights, dtype=np.float64)[self.videos]
            objects = objects * weights[:, None]
            true, false = true * weights[self.owner], false * weights[self.owner]
        totals = objects.sum(axis=0)
        num_ranges, num_thresholds, num_tracks = true.shape
        curve = -np.ones((num_thresholds, len(RECALL_THRESHOLDS), num_ranges))
        final = -np.ones((num_thresholds, num_ranges))
        ranges = (totals > 0).nonzero()[0]
        tp = np.cumsum(true[ranges], axis=2, dtype=np.float64)
        fp = np.cumsum(false[ranges], axis=2, dtype=np.float64)
        recall = tp / totals[ranges, None, None]
        # one place past the end: precision 0 where a recall is never reached
        precision = np.zeros((*tp.shape[:2], num_tracks + 1))
        raw = tp / (fp + tp + EPSILON)
        precision[:, :, :-1] = np.maximum.accumulate(raw[:, :, ::-1], axis=2)[:, :, ::-1]
        for i, r in enumerate(ranges):
            final[:, r] = recall[i, :, -1] if num_tracks else 0.0
            for s in range(num_thresholds):
                places = np.searchsorted(recall[i, s], RECALL_THRESHOLDS, side="left")
                curve[s, :, r] = precision[i, s, places]
        return curve, final


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
    precision = np.empty((shape[0], len(RECALL_THRESHOLDS), *shape[1:]))
    recall = np.empty(shape)
    for k, matches in enumerate(classes):
        for m, limit in enumerate(max_dets):
            tracks = ClassTracks(matches, limit, num_ranges)
            precision[:, :, k, :, m], recall[:, k, :, m] = tracks.curve(video_weights)
    return Curves(precision, recall)


def mean_of_valid(values: np.ndarray) -> float:
    """Mean over the entries above -1; NaN if there is none."""
    values = values[values > -1]
    return float(np.mean(values)) if len(values) else float("nan")
