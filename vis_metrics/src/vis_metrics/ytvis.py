"""Average precision and recall over tubes: YouTube-VIS and OVIS.

Letters: T frames, D tracks, G objects, R ranges.

A tube is an object's masks over all frames of a video; the IoU of two tubes is the sum of their
intersections over the sum of their unions. Numbers are the official ones to the last digit
(float64, stable order); a track or object of the wrong length is an error, not cut silently.
Source: Yang et al., "Video Instance Segmentation", section 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from .average_precision import (
    IOU_THRESHOLDS,
    Curves,
    VideoMatches,
    accumulate,
    match,
    mean_of_valid,
)
from .errors import GroundTruthError
from .files.ytvis_files import GroundTruth, Video, compressed, read_ground_truth, read_results
from .video_pool import watched

SIZE_RANGES = {  # pixels, both ends inclusive
    "all": (0.0, 1e10),
    "s": (0.0, 128.0**2),
    "m": (128.0**2, 256.0**2),
    "l": (256.0**2, 1e10),
}
ROUNDS = 8  # in which tube_iou visits the frames
FEW_PAIRS = 8  # of tracks and objects: half the rounds do
PAIRS_OF_A_CALL = 16  # of masks, which cost about as much as the call itself
OCCLUSION_SCORES = {"no_occlusion": 0.0, "slight_occlusion": 0.25, "severe_occlusion": 0.75}
OCCLUSION_RANGES = {"_light": (0.0, 0.25), "_medium": (0.25, 0.5), "_heavy": (0.5, 1.0)}


@dataclass
class TrackMatches:
    """All videos matched: what averages and confidence intervals are made of.

    Attributes:
        truth: the checked ground truth.
        classes: per class (ascending id) its videos.
        ranges: names of the ranges, "all" first.
        max_dets: how many tracks per class and video may count, ascending.
    """

    truth: GroundTruth
    classes: list[list[VideoMatches]]
    ranges: list[str]
    max_dets: tuple[int, ...]

    def curves(self, video_weights: np.ndarray | None = None) -> Curves:
        """Return precision and recall; ``video_weights`` says how often each video counts."""
        return accumulate(
            self.classes, self.max_dets, num_ranges=len(self.ranges), video_weights=video_weights
        )


def evaluate_ytvis(
    ground_truth: Path | Mapping[str, Any],
    results: Path | Sequence[Mapping[str, Any]],
    *,
    max_dets: Sequence[int] = (1, 10, 100),
    progress: bool = False,
) -> dict[str, Any]:
    """Score tracks and return fractions under the official names.

    Args:
        ground_truth: YouTube-VIS json, or its content.
        results: ``results.json``, its zip, or the list.
        max_dets: how many tracks per class and video count for AR; the last one holds for AP.
        progress: show a bar.

    Returns:
        ``{"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
        "per_category": {name: AP}}``; NaN where there is no object to average over. If every
        object has occlusion levels (OVIS), also ``AP_light, AP_medium, AP_heavy, AR_light, ...``.

    Raises:
        GroundTruthError, ResultFileError: see ``ytvis_files``.
    """
    matches = match_tracks(ground_truth, results, max_dets=max_dets, progress=progress)
    return summarize(matches, matches.curves())


def match_tracks(
    ground_truth: Path | Mapping[str, Any],
    results: Path | Sequence[Mapping[str, Any]],
    *,
    max_dets: Sequence[int] = (1, 10, 100),
    progress: bool = False,
) -> TrackMatches:
    """Match all tracks to objects; arguments and errors as ``evaluate_ytvis``."""
    truth = read_ground_truth(ground_truth)
    if truth.annotations is None:
        raise GroundTruthError(
            f"{truth.name}: has no annotations, so nothing can be scored here; upload the zip of "
            "results.json to the benchmark's server"
        )
    max_dets = tuple(sorted(max_dets))
    tracks = read_results(results, truth)
    with_occlusion = _has_occlusion(truth)
    classes: list[list[VideoMatches]] = [[] for _ in truth.categories]
    index_of = {category: k for k, category in enumerate(truth.categories)}
    videos = watched(truth.videos, "AP over tubes", "video", shown=progress)
    for index, video_id in enumerate(videos):
        video, own = truth.videos[video_id], tracks[video_id]
        areas = _areas([track["segmentations"] for track in own], video.length)
        grouped = _by_category(own, truth.annotations[video_id])
        for category, (places, objects) in grouped.items():
            classes[index_of[category]].append(
                _match_video(
                    index,
                    video,
                    [own[place] for place in places],
                    areas[places],
                    objects,
                    max_dets[-1],
                    with_occlusion,
                )
            )
    names = [*SIZE_RANGES, *(OCCLUSION_RANGES if with_occlusion else ())]
    return TrackMatches(truth, classes, names, max_dets)


def summarize(matches: TrackMatches, curves: Curves) -> dict[str, Any]:
    """Return the official numbers of ``curves`` and AP per category."""
    precision, recall = curves.precision, curves.recall
    at = {name: r for r, name in enumerate(matches.ranges)}
    report = {"AP": mean_of_valid(precision[..., 0, -1])}
    for percent in (50, 75):
        s = int(np.argmin(np.abs(IOU_THRESHOLDS - percent / 100)))
        report[f"AP{percent}"] = mean_of_valid(precision[s, ..., 0, -1])
    for name in "sml":
        report[f"AP{name}"] = mean_of_valid(precision[..., at[name], -1])
    for m, limit in enumerate(matches.max_dets):
        report[f"AR{limit}"] = mean_of_valid(recall[..., 0, m])
    for name in "sml":
        report[f"AR{name}"] = mean_of_valid(recall[..., at[name], -1])
    for name in matches.ranges[len(SIZE_RANGES) :]:
        report[f"AP{name}"] = mean_of_valid(precision[..., at[name], -1])
    for name in matches.ranges[len(SIZE_RANGES) :]:
        report[f"AR{name}"] = mean_of_valid(recall[..., at[name], -1])
    per_category = {
        label: mean_of_valid(precision[:, :, k, 0, -1])
        for k, label in enumerate(category_labels(matches.truth))
    }
    return {**report, "per_category": per_category}


def category_labels(truth: GroundTruth) -> list[str]:
    """Return the categories' names; the id is added to names that occur twice."""
    names = list(truth.categories.values())
    return [
        name if names.count(name) == 1 else f"{name} ({identity})"
        for identity, name in truth.categories.items()
    ]


def tube_iou(
    tracks: Sequence[Sequence[Any]],
    objects: Sequence[Sequence[Any]],
    *,
    length: int,
    minimum: float = 0.0,
    areas: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the IoU of tubes (D, G) and the tracks' areas per frame (D, T).

    Tubes are lists of T = ``length`` entries, compressed RLE or None. Pairs whose IoU is certainly
    below ``minimum`` get 0 and are not followed to the end. ``areas``: the tracks', if known.

    The integer intersection of two masks is recovered from their IoU q and areas a, b as
    q (a + b) / (1 + q), so that one call serves all pairs of a frame. Frames are visited in rounds
    spread over the video; after each, a pair lives on if its intersection could still suffice,
    the smaller area being the most that a frame can add.
    """
    ours = _areas(tracks, length) if areas is None else areas
    intersection = np.zeros((len(tracks), len(objects)))
    if not len(tracks) or not len(objects):
        return intersection, ours
    theirs = _areas(objects, length)
    total = ours.sum(1)[:, None] + theirs.sum(1)
    frames = (ours.any(axis=0) & theirs.any(axis=0)).nonzero()[0]
    most = np.minimum(ours[:, None, frames], theirs[None, :, frames])
    rest = most.sum(axis=2)
    rounds = ROUNDS if rest.size > FEW_PAIRS else ROUNDS // 2
    for start in range(min(rounds, len(frames))):
        alive = _could_reach(intersection + rest, total, minimum)
        if not alive.any():
            break
        rows, columns = alive.any(axis=1).nonzero()[0], alive.any(axis=0).nonzero()[0]
        visited = frames[start::rounds]
        _add_intersections(intersection, tracks, objects, (ours, theirs), visited, rows, columns)
        rest -= most[:, :, start::rounds].sum(axis=2)
    alive = _could_reach(intersection + rest, total, minimum)
    union = np.maximum(total - intersection, 1)
    return np.where(alive, intersection / union, 0.0), ours


def _add_intersections(
    intersection: np.ndarray,
    tracks: Sequence[Sequence[Any]],
    objects: Sequence[Sequence[Any]],
    areas: tuple[np.ndarray, np.ndarray],
    frames: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
) -> None:
    """Add the intersections of these tracks and objects in these frames.

    A call costs as much as a dozen pairs. With few pairs a frame several frames share one, and the
    pairs of unlike frames are thrown away.
    """
    ours, theirs = (
        [tubes[k] for k in alive] for tubes, alive in ((tracks, rows), (objects, columns))
    )
    together = max(1, math.isqrt(PAIRS_OF_A_CALL // (len(rows) * len(columns))))
    iou = np.zeros((len(frames), len(rows), len(columns)))
    for first in range(0, len(frames), together):
        chunk = frames[first : first + together].tolist()
        left = [tube[t] for t in chunk for tube in ours]
        right = [tube[t] for t in chunk for tube in theirs]
        d = [k for k, mask in enumerate(left) if mask is not None]
        g = [k for k, mask in enumerate(right) if mask is not None]
        if not d or not g:
            continue
        found = mask_util.iou([left[k] for k in d], [right[k] for k in g], [0] * len(g))
        if len(chunk) == 1 and found.size == iou[0].size:
            iou[first] = found
            continue
        pairs = np.zeros((len(left), len(right)))
        pairs[np.array(d)[:, None], g] = found
        same = np.arange(len(chunk))
        pairs = pairs.reshape(len(chunk), len(rows), len(chunk), len(columns))
        iou[first : first + together] = pairs[same, :, same]
    sizes = areas[0][rows][:, frames].T[:, :, None] + areas[1][columns][:, frames].T[:, None]
    both = np.rint(iou * sizes / (1 + iou)).sum(axis=0)
    intersection[rows[:, None], columns] += both


def _could_reach(intersection: np.ndarray, total: np.ndarray, minimum: float) -> np.ndarray:
    """True where an IoU of ``minimum`` is possible with at most this intersection."""
    return (intersection > 0) & (intersection >= (minimum - 1e-9) * (total - intersection))


def _areas(tubes: Sequence[Sequence[Any]], length: int) -> np.ndarray:
    """Return the areas of all masks as float64 (tubes, T), 0 where there is none."""
    present = [mask for tube in tubes for mask in tube if mask is not None]
    places = [mask is not None for tube in tubes for mask in tube]
    areas = np.zeros(len(tubes) * length)
    if present:
        # pycocotools 2.0.11 with numpy 2 takes no more than 255 masks in one call
        chunks = (present[start : start + 255] for start in range(0, len(present), 255))
        areas[places] = np.concatenate([mask_util.area(chunk) for chunk in chunks])
    return areas.reshape(len(tubes), length)


def _by_category(
    tracks: Sequence[Mapping[str, Any]], objects: Sequence[Mapping[str, Any]]
) -> dict[int, tuple[list[int], list[Mapping[str, Any]]]]:
    """Sort the tracks (their places) and the objects of a video by category."""
    grouped: dict[int, tuple[list[int], list[Any]]] = {}
    for place, track in enumerate(tracks):
        grouped.setdefault(track["category_id"], ([], []))[0].append(place)
    for entry in objects:
        grouped.setdefault(entry["category_id"], ([], []))[1].append(entry)
    return grouped


def _match_video(
    index: int,
    video: Video,
    tracks: list[Mapping[str, Any]],
    areas: np.ndarray,
    objects: list[Mapping[str, Any]],
    limit: int,
    with_occlusion: bool,
) -> VideoMatches:
    """Match the tracks, of these areas per frame, and the objects of one class in one video."""
    scores = np.array([track["score"] for track in tracks], dtype=np.float64)
    order = np.argsort(-scores, kind="stable")[:limit]
    tubes = [tracks[d]["segmentations"] for d in order]
    masks = [[compressed(mask, video) for mask in entry["segmentations"]] for entry in objects]
    areas = areas[order]
    iou, _ = tube_iou(tubes, masks, length=video.length, minimum=IOU_THRESHOLDS[0], areas=areas)
    seen = (areas > 0).sum(axis=1)
    track_sizes = areas.sum(axis=1) / np.maximum(seen, 1)
    object_sizes = np.array([_object_size(entry, own) for entry, own in zip(objects, masks)])
    crowd = np.array([bool(entry.get("iscrowd", 0)) for entry in objects], dtype=bool)
    outside_objects = [_outside(object_sizes, bounds) for bounds in SIZE_RANGES.values()]
    outside_tracks = [_outside(track_sizes, bounds) for bounds in SIZE_RANGES.values()]
    if with_occlusion:
        levels = np.array([_occlusion(entry) for entry in objects])
        outside_objects += [_outside(levels, bounds) for bounds in OCCLUSION_RANGES.values()]
        outside_tracks += [np.zeros(len(tubes), dtype=bool)] * len(OCCLUSION_RANGES)
    gt_ignored = np.array(outside_objects, dtype=bool) | crowd
    matched, ignored = match(iou, crowd, gt_ignored, np.array(outside_tracks, dtype=bool))
    return VideoMatches(index, scores[order], matched, ignored, (~gt_ignored).sum(axis=1))


def _outside(values: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    return (values < bounds[0]) | (values > bounds[1])


def _object_size(entry: Mapping[str, Any], masks: Sequence[Any]) -> float:
    """Mean of an object's positive ``areas``; of its masks' areas if the file gives none."""
    areas = entry.get("areas")
    if areas is None:
        areas = _areas([masks], len(masks))[0].tolist()
    areas = [area for area in areas if area]
    return float(np.mean(areas)) if areas else 0.0


def _has_occlusion(truth: GroundTruth) -> bool:
    """True if every object has occlusion levels (OVIS)."""
    entries = [entry for video in truth.annotations.values() for entry in video]
    return bool(entries) and all(entry.get("occlusion") for entry in entries)


def _occlusion(entry: Mapping[str, Any]) -> float:
    """Occlusion of an object: mean of the higher half of its frames' scores."""
    levels = [level for level in entry["occlusion"] if level is not None]
    try:
        scores = sorted((OCCLUSION_SCORES[level] for level in levels), reverse=True)
    except KeyError as level:
        raise GroundTruthError(
            f"annotation {entry['id']}: occlusion {level} is none of {', '.join(OCCLUSION_SCORES)}"
        ) from None
    highest = scores[: (len(scores) + 1) // 2]
    return float(np.mean(highest)) if highest else 0.0
