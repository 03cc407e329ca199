"""Identity metrics of tracks: IDF1 and identity switches, by masks and within classes.

Letters: T frames, D tracks, G objects.

A track and an object agree in a frame if the IoU of their masks is at least 0.5. IDF1 pairs whole
tracks with whole objects, one to one, so that they agree in as many frames as possible (Ristani et
al., "Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking", section 3).
Switches count how often an object changes its track (CLEAR MOT): in every frame tracks and objects
that agree are paired, earlier pairs first, then by IoU; a switch is a pair whose object was last
paired with another track. Definitions in full: `docs/metrics.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_util

from .errors import GroundTruthError, ResultFileError
from .files.ytvis_files import Video, compressed, read_ground_truth, read_results
from .region_boundary import VOID, region_measures
from .video_pool import watched

AGREEMENT = 0.5  # IoU


class IdentityCounts(NamedTuple):
    """What identity metrics are made of; counts of several videos add up.

    ``agreeing``: frames in which paired tracks and objects agree; ``objects``, ``tracks``: masks
    of all objects and of all tracks; ``switches``: identity switches.
    """

    agreeing: int = 0
    objects: int = 0
    tracks: int = 0
    switches: int = 0

    def plus(self, other: IdentityCounts) -> IdentityCounts:
        """Return the sum of two counts."""
        return IdentityCounts(*(a + b for a, b in zip(self, other)))

    def report(self) -> dict[str, float | int]:
        """Return ``{"IDF1", "IDP", "IDR", "IDSW"}``; NaN where nothing is counted."""
        return {
            "IDF1": _ratio(2 * self.agreeing, self.objects + self.tracks),
            "IDP": _ratio(self.agreeing, self.tracks),
            "IDR": _ratio(self.agreeing, self.objects),
            "IDSW": self.switches,
        }


def evaluate_identity(
    ground_truth: Path | Mapping[str, Any],
    results: Path | Sequence[Mapping[str, Any]],
    *,
    min_score: float = 0.5,
    progress: bool = False,
) -> dict[str, Any]:
    """Score YouTube-VIS results.

    Args:
        ground_truth, results: as ``evaluate_ytvis``.
        min_score: tracks below it are left out; identity needs a decision, AP does not.
        progress: show a bar.

    Returns:
        ``{"IDF1", "IDP", "IDR", "IDSW", "per_category": {name: {...}}}`` over all videos.

    Raises:
        GroundTruthError, ResultFileError: as ``evaluate_ytvis``.
    """
    truth = read_ground_truth(ground_truth)
    if truth.annotations is None:
        raise GroundTruthError(f"{truth.name}: has no annotations, so nothing can be scored here")
    tracks = read_results(results, truth)
    counts = dict.fromkeys(truth.categories, IdentityCounts())
    videos = watched(truth.videos.items(), "identity", "video", shown=progress)
    for video_id, video in videos:
        for category in counts:
            own = [
                track
                for track in tracks[video_id]
                if track["category_id"] == category and track["score"] >= min_score
            ]
            objects = [o for o in truth.annotations[video_id] if o["category_id"] == category]
            if own or objects:
                counts[category] = counts[category].plus(_video_counts(video, own, objects))
    total = _sum(counts.values())
    per_category = {name: counts[k].report() for k, name in truth.categories.items()}
    return {**total.report(), "per_category": per_category}


def identity_of_label_maps(gt: np.ndarray, results: np.ndarray) -> IdentityCounts:
    """Count one video of label maps (T, H, W), ids as values; 255 in ``gt`` is background.

    Raises ResultFileError if the lengths differ.
    """
    if len(gt) != len(results):
        raise ResultFileError(f"{len(results)} label maps for {len(gt)} ground-truth frames")
    gt = np.where(gt == VOID, 0, gt)
    num_gt, num_results = int(gt.max(initial=0)), int(results.max(initial=0))
    iou = np.zeros((len(gt), num_results, num_gt))
    for t in range(len(gt)):
        measures = region_measures(gt[t], results[t], num_gt=num_gt, num_results=num_results)
        iou[t] = measures.T
    objects = np.array([np.bincount(m.ravel(), minlength=256) for m in gt]).reshape(-1, 256) > 0
    tracks = np.array([np.bincount(m.ravel(), minlength=256) for m in results]).reshape(-1, 256) > 0
    return identity_counts(iou, tracks[:, 1 : num_results + 1], objects[:, 1 : num_gt + 1])


def identity_counts(
    iou: np.ndarray, track_present: np.ndarray, object_present: np.ndarray
) -> IdentityCounts:
    """Count one video.

    ``iou`` (T, D, G) of masks; ``track_present`` bool (T, D), ``object_present`` bool (T, G).
    """
    from scipy.optimize import linear_sum_assignment

    agree = (iou >= AGREEMENT) & track_present[:, :, None] & object_present[:, None]
    frames = agree.sum(axis=0)
    rows, columns = linear_sum_assignment(frames, maximize=True)
    return IdentityCounts(
        int(frames[rows, columns].sum()),
        int(object_present.sum()),
        int(track_present.sum()),
        _switches(iou, agree),
    )


def _switches(iou: np.ndarray, agree: np.ndarray) -> int:
    """Count the objects' changes of track over time."""
    from scipy.optimize import linear_sum_assignment

    last = np.full(iou.shape[2], -1)
    switches = 0
    for t in range(len(iou)):
        kept = np.arange(iou.shape[1])[:, None] == last
        value = np.where(agree[t], iou[t] + 1000.0 * kept, 0.0)  # earlier pairs first
        rows, columns = linear_sum_assignment(value, maximize=True)
        paired = agree[t, rows, columns]
        rows, columns = rows[paired], columns[paired]
        switches += int(((last[columns] >= 0) & (last[columns] != rows)).sum())
        last[columns] = rows
    return switches


def _video_counts(
    video: Video, tracks: Sequence[Mapping[str, Any]], objects: Sequence[Mapping[str, Any]]
) -> IdentityCounts:
    """Count one class of one video; masks that agree with nothing but a crowd are left out."""
    crowd = np.array([bool(o.get("iscrowd", 0)) for o in objects], dtype=bool)
    masks = [[compressed(mask, video) for mask in o["segmentations"]] for o in objects]
    iou = np.zeros((video.length, len(tracks), len(objects)))
    track_present = np.zeros((video.length, len(tracks)), dtype=bool)
    object_present = np.zeros((video.length, len(objects)), dtype=bool)
    for t in range(video.length):
        ours = _visible([track["segmentations"][t] for track in tracks])
        theirs = _visible([tube[t] for tube in masks])
        track_present[t, list(ours)] = True
        object_present[t, list(theirs)] = True
        if ours and theirs:
            values = mask_util.iou(list(ours.values()), list(theirs.values()), [0] * len(theirs))
            iou[t][np.ix_(list(ours), list(theirs))] = values
    agree = iou >= AGREEMENT
    excused = agree[:, :, crowd].any(axis=2) & ~agree[:, :, ~crowd].any(axis=2)
    return identity_counts(iou[:, :, ~crowd], track_present & ~excused, object_present[:, ~crowd])


def _visible(masks: Sequence[Any]) -> dict[int, Any]:
    """Return the masks that have a pixel, by position."""
    return {i: m for i, m in enumerate(masks) if m is not None and mask_util.area(m) > 0}


def _sum(counts: Iterable[IdentityCounts]) -> IdentityCounts:
    total = IdentityCounts()
    for part in counts:
        total = total.plus(part)
    return total


def _ratio(a: int, b: int) -> float:
    return a / b if b else float("nan")
