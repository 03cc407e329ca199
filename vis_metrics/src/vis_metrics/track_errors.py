"""Which errors cost a track detector its AP: error analysis of tracks in the spirit of TIDE.

After Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors" (ECCV 2020),
with tubes in place of boxes and two kinds of error that only tracks have. Every track that is no
true positive at a tube IoU of 0.5 is one error:

==========  =====================================================================================
class       reaches 0.5 with an object of another class
duplicate   reaches 0.5 with an object of its class that a better track has
switch      its frames follow two or more objects of its class well, none of them far enough
temporal    follows one object of its class well in the frames they share (mean mask IoU of 0.5 or
            more), but begins, ends or pauses at other times
spatial     overlaps an object of its class (tube IoU of 0.1 to 0.5) with poor masks
background  none of these: nothing of its class is there
missed      an object that no track found, and that no error above stands for
==========  =====================================================================================

The cost of a kind is the rise of AP50 when all errors of that kind, and no others, are mended:
class, temporal, spatial and switch errors get the object's class and masks (and go, if it is taken
by then), duplicate and background tracks go, missed objects are not counted. Mending all gives 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from .files.ytvis_files import compressed, read_ground_truth, read_results
from .ytvis import tube_iou

KINDS = ("class", "spatial", "temporal", "duplicate", "switch", "background", "missed")
FOUND, OVERLAPS = 0.5, 0.1  # TIDE's foreground and background thresholds
FOLLOWED = 0.2  # a switch: at least this share of a track's frames on each of two objects
_MENDED = ("class", "spatial", "temporal", "switch")


@dataclass
class TrackError:
    """One error.

    Attributes:
        kind: one of ``KINDS``.
        video_id: of its video.
        category_id: that the track says; of the object, for missed ones.
        score: of the track, NaN for missed objects.
        object_id: id of the annotation that it concerns, None for background.
    """

    kind: str
    video_id: int
    category_id: int
    score: float
    object_id: Any = None


@dataclass
class ErrorReport:
    """The outcome of the analysis.

    Attributes:
        ap50: AP at a tube IoU of 0.5, a fraction; NaN without objects.
        cost: by kind, how much AP50 would rise if errors of that kind alone were mended.
        mended: AP50 with all errors mended: 1, or NaN without objects.
        errors: all of them, best scores first, missed objects last.
    """

    ap50: float
    cost: dict[str, float]
    mended: float
    errors: list[TrackError] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Return the number of errors by kind."""
        return {kind: sum(e.kind == kind for e in self.errors) for kind in KINDS}


@dataclass
class _Object:
    video: int
    category: int
    identity: Any
    crowd: bool
    taken: bool = False  # by a true positive
    stands_for: bool = False  # an error other than "missed" concerns it


@dataclass
class _Track:
    video: int
    category: int
    score: float
    true: _Object | None = None
    error: TrackError | None = None
    object: _Object | None = None  # that mending would give it
    ignored: bool = False


def analyse_errors(
    ground_truth: Path | Mapping[str, Any],
    results: Path | Sequence[Mapping[str, Any]],
    *,
    max_dets: int = 100,
) -> ErrorReport:
    """Sort all errors of a YouTube-VIS result by kind and say what each kind costs.

    The order of the results does not matter: of equal scores the larger track comes first.

    Args:
        ground_truth: YouTube-VIS json, or its content.
        results: ``results.json``, its zip, or the list.
        max_dets: tracks of a class and video that count.

    Raises:
        GroundTruthError, ResultFileError: as ``evaluate_ytvis``.
    """
    truth = read_ground_truth(ground_truth)
    entries = read_results(results, truth)
    objects: list[_Object] = []
    tracks: list[_Track] = []
    for video_id, video in truth.videos.items():
        annotations = truth.annotations[video_id]
        masks = [[compressed(m, video) for m in a["segmentations"]] for a in annotations]
        own = [
            _Object(video_id, a["category_id"], a.get("id"), bool(a.get("iscrowd", 0)))
            for a in annotations
        ]
        found = entries[video_id]
        tubes = [entry["segmentations"] for entry in found]
        iou, areas = tube_iou(tubes, masks, length=video.length)
        new = [_Track(video_id, e["category_id"], float(e["score"])) for e in found]
        order = sorted(
            range(len(new)), key=lambda d: (-new[d].score, -areas[d].sum(), str(tubes[d]))
        )
        _find_true(new, own, iou, order, max_dets)
        for d in order:
            if new[d].true is None and not new[d].ignored:
                _sort_error(new[d], own, iou[d], tubes[d], masks)
        objects += own
        tracks += [new[d] for d in order if not new[d].ignored]
    for thing in objects:
        thing.stands_for = thing.stands_for or thing.taken
    tracks.sort(key=lambda t: -t.score)
    missed = [o for o in objects if not o.crowd and not o.stands_for]
    errors = [t.error for t in tracks if t.error is not None]
    errors += [TrackError("missed", o.video, o.category, float("nan"), o.identity) for o in missed]
    base = _ap50(tracks, objects, ())
    cost = {kind: _ap50(tracks, objects, (kind,)) - base for kind in KINDS}
    return ErrorReport(base, cost, _ap50(tracks, objects, KINDS), errors)


def _find_true(
    tracks: list[_Track], objects: list[_Object], iou: np.ndarray, order: list[int], limit: int
) -> None:
    """Give every object of a video to the best-scoring track of its class that reaches 0.5."""
    counts: dict[int, int] = {}
    for d in order:
        track = tracks[d]
        counts[track.category] = counts.get(track.category, 0) + 1
        if counts[track.category] > limit:
            track.ignored = True
            continue
        best, chosen = FOUND - 1e-12, None
        for g, thing in enumerate(objects):
            if thing.category != track.category or thing.taken or thing.crowd:
                continue
            if iou[d, g] >= best:
                best, chosen = iou[d, g], thing
        if chosen is not None:
            chosen.taken, track.true = True, chosen
        else:
            crowds = [g for g, o in enumerate(objects) if o.crowd and o.category == track.category]
            track.ignored = any(iou[d, g] >= FOUND for g in crowds)


def _sort_error(
    track: _Track,
    objects: list[_Object],
    iou: np.ndarray,
    tube: Sequence[Any],
    masks: Sequence[Sequence[Any]],
) -> None:
    counted = [g for g, o in enumerate(objects) if not o.crowd]
    same = [g for g in counted if objects[g].category == track.category]
    other = [g for g in counted if objects[g].category != track.category]
    best = max(same, key=lambda g: iou[g], default=None)
    wrong = max(other, key=lambda g: iou[g], default=None)
    kind, chosen = "background", None
    if best is not None and iou[best] >= FOUND:
        kind, chosen = "duplicate", best
    elif wrong is not None and iou[wrong] >= FOUND:
        kind, chosen = "class", wrong
    else:
        overlaps = [g for g in same if iou[g] > 0]
        frames = {g: _frame_ious(tube, masks[g]) for g in overlaps}
        seen = sum(m is not None for m in tube)
        well = [g for g in overlaps if (frames[g] >= FOUND).sum() >= FOLLOWED * max(seen, 1)]
        if len(well) > 1:
            kind, chosen = "switch", max(well, key=lambda g: (frames[g] >= FOUND).sum())
        elif best is not None and iou[best] >= OVERLAPS:
            shared = frames[best][~np.isnan(frames[best])]
            well_seen = len(shared) and shared.mean() >= FOUND
            kind, chosen = ("temporal" if well_seen else "spatial"), best
    thing = None if chosen is None else objects[chosen]
    identity = None if thing is None else thing.identity
    track.error = TrackError(kind, track.video, track.category, track.score, identity)
    track.object = thing
    if thing is not None and kind in _MENDED:
        thing.stands_for = True


def _frame_ious(tube: Sequence[Any], masks: Sequence[Any]) -> np.ndarray:
    """IoU in every frame where both have a mask; NaN elsewhere."""
    out = np.full(len(tube), np.nan)
    for t, (ours, theirs) in enumerate(zip(tube, masks)):
        if ours is not None and theirs is not None:
            out[t] = mask_util.iou([ours], [theirs], [0])[0, 0]
    return out


def _ap50(tracks: list[_Track], objects: list[_Object], mended: Sequence[str]) -> float:
    """AP at a tube IoU of 0.5 over classes, with some kinds of errors mended."""
    total: dict[int, int] = {}
    for thing in objects:
        lost = "missed" in mended and not thing.stands_for
        if not thing.crowd and not lost:
            total[thing.category] = total.get(thing.category, 0) + 1
    taken = {id(t.true) for t in tracks if t.true is not None}
    hits: dict[int, list[bool]] = {category: [] for category in total}
    for track in tracks:  # best scores first
        category, good = track.category, track.true is not None
        kind = track.error.kind if track.error is not None else ""
        if kind in mended:
            if kind not in _MENDED or id(track.object) in taken:
                continue
            taken.add(id(track.object))
            category, good = track.object.category, True
        if category in hits:
            hits[category].append(good)
    values = [_average_precision(np.array(hits[c], bool), n) for c, n in total.items()]
    if values:
        return float(np.mean(values))
    # Every object was missed, and that is mended: nothing is wrong any more.
    return 1.0 if any(not o.crowd for o in objects) else float("nan")


def _average_precision(good: np.ndarray, total: int) -> float:
    """Mean of the interpolated precision at 101 recalls; ``good`` in order of scores."""
    true = np.cumsum(good)
    precision = true / np.arange(1, len(good) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(true / total, np.linspace(0, 1, 101), side="left")
    return float(np.append(precision, 0.0)[places].mean())
