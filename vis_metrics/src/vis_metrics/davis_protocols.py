"""The three DAVIS protocols: 2016 (one object), semi-supervised 2017, unsupervised 2019.

Letters: T annotated frames, H x W pixels, G ground-truth objects, P proposals, n evaluated frames.

A sequence is read frame by frame, so memory does not grow with its length. Objects are the ids that
the ground truth holds: an id that is skipped is no object. On official data, where ids have no
gaps and every object is in frame 0, this is the official rule.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .errors import GroundTruthError, ResultFileError
from .files.label_files import LabelMaps, check_same_size
from .region_boundary import VOID, frame_measures, ids_of, mask_measures

UNSUP_ALL = "unsup-all"
UNSUPERVISED = ("unsup", UNSUP_ALL)
MAX_PROPOSALS = 20  # of the unsupervised challenge
ONE_OBJECT = "the masks hold only 0 and 255: taken as one object, id 1"


class ObjectSeries(NamedTuple):
    """One object's J and F over the evaluated frames, two float64 arrays (n,)."""

    object_id: int
    region: np.ndarray
    boundary: np.ndarray


class SequenceScores(NamedTuple):
    """What the scoring of one sequence gives.

    ``objects`` in the order of ids. ``encoding`` (2016 only) is ``"0/255"`` or ``"merged ids"``.
    ``assignment`` (unsup only): pairs (proposal, object), ids from 1, by proposal. ``notes`` say
    what a user should know about the ground truth.
    """

    name: str
    objects: list[ObjectSeries]
    encoding: str | None = None
    assignment: list[tuple[int, int]] | None = None
    notes: tuple[str, ...] = ()


def score_sequence(
    name: str,
    ground_truth: LabelMaps,
    results: LabelMaps,
    protocol: str,
    *,
    goes_on: bool = False,
) -> SequenceScores:
    """Score one sequence.

    Both sides hold the annotated frames. ``goes_on``: the video has frames after the last of them,
    which is then scored like any other.
    Raises ResultFileError if lengths or sizes differ or an id is too high.
    """
    if len(ground_truth) != len(results):
        raise ResultFileError(
            f"results of {name}: {len(results)} frames, the ground truth has {len(ground_truth)}; "
            "write one label map per frame"
        )
    if protocol in UNSUPERVISED:
        return _score_unsup(name, ground_truth, results, every=protocol == UNSUP_ALL)
    end = len(ground_truth) if goes_on else len(ground_truth) - 1
    if protocol == "2016":
        return _score_2016(name, ground_truth, results, end)
    return _score_semi(name, ground_truth, results, end)


# One object ---------------------------------------------------------------------------------------


class _MixedEncoding(Exception):
    """Ids turned up in ground truth that looked like the 0/255 encoding so far."""


def _score_2016(name: str, ground_truth: LabelMaps, results: LabelMaps, end: int) -> SequenceScores:
    """One object, frames 1..T-2.

    Masks that hold nothing but 0 and 255 are DAVIS-2016 ones, 255 being the object. Otherwise
    they are DAVIS-2017 ones: all ids are merged, and 255 is void.
    """
    try:
        object_series = _series_2016(ground_truth, results, end, merged=False)
        encoding = "0/255"
    except _MixedEncoding:
        object_series = _series_2016(ground_truth, results, end, merged=True)
        encoding = "merged ids"
    return SequenceScores(name, [object_series], encoding=encoding)


def _series_2016(
    ground_truth: LabelMaps, results: LabelMaps, end: int, *, merged: bool
) -> ObjectSeries:
    values = []
    for t in range(len(ground_truth)):
        gt = ground_truth.read(t)
        if not merged and any(k < VOID for k in ids_of(gt)):
            raise _MixedEncoding
        if not 0 < t < end:
            continue
        result = results.read(t)
        check_same_size(gt, result, ground_truth.where(t), results.where(t))
        values.append(mask_measures(gt, result, void=_void(gt) if merged else None))
    return ObjectSeries(1, *np.reshape(values, (-1, 2)).T)


# Semi-supervised ----------------------------------------------------------------------------------


def _score_semi(name: str, ground_truth: LabelMaps, results: LabelMaps, end: int) -> SequenceScores:
    """All objects of the ground truth, each from the frame after its first one; 255 is background.

    The video's last frame is left out, as in the official tool.
    """
    binary = _only_void(ground_truth)
    values: dict[int, list[tuple[float, float]]] = {}
    highest, where = 0, ""
    for t in range(len(ground_truth)):
        gt = _as_object(ground_truth.read(t), binary)
        if values and t < end:
            result = _as_object(results.read(t), binary)
            check_same_size(gt, result, ground_truth.where(t), results.where(t))
            found = int(result.max(initial=0))
            if found > highest:
                highest, where = found, results.where(t)
            _score_ids(gt, result, values)
        for object_id in ids_of(gt):
            if object_id < VOID:
                values.setdefault(object_id, [])
    known = max(values, default=0)
    if binary and 1 < highest < VOID:
        raise GroundTruthError(
            f"{ground_truth.where(0)}: holds only 0 and 255, one object, but {where} holds id "
            f"{highest}: use protocol 2016, which unites ids, or give ground truth with ids"
        )
    gaps = "" if known == len(values) else f", with ids up to {known}"
    _check_ids(highest, known, where, _objects(len(values)) + gaps)
    objects = [ObjectSeries(k, *np.reshape(values[k], (-1, 2)).T) for k in sorted(values)]
    return SequenceScores(name, objects, notes=(ONE_OBJECT,) if binary else ())


def _score_ids(
    gt: np.ndarray, result: np.ndarray, values: dict[int, list[tuple[float, float]]]
) -> None:
    """Add one frame's J and F of the objects that ``values`` knows."""
    ids = sorted(values)
    if ids[-1] != len(ids):  # gaps: count through
        number = np.zeros(256, dtype=np.uint8)
        number[ids] = np.arange(1, len(ids) + 1)
        gt, result = number[gt], number[result]
    pairs = frame_measures(gt, result, num_gt=len(ids), num_results=len(ids))
    for row, k in enumerate(ids):
        values[k].append((pairs[0][row, row], pairs[1][row, row]))


# Unsupervised -------------------------------------------------------------------------------------


def _score_unsup(
    name: str, ground_truth: LabelMaps, results: LabelMaps, *, every: bool
) -> SequenceScores:
    """Objects up to the highest id of the first frame that has one, all frames, void removed.

    Objects are matched to proposals by J and F; ids that come later and are higher are not scored.
    With ``every`` all objects are, each from its first mask on.
    """
    from scipy.optimize import linear_sum_assignment

    binary = _only_void(ground_truth)
    num_gt = _highest_first_id(ground_truth, binary, anywhere=every)
    limit = max(MAX_PROPOSALS, num_gt)
    region = np.zeros((len(ground_truth), num_gt, limit))
    boundary = np.zeros_like(region)
    seen = np.zeros(256, dtype=bool)
    begin = np.zeros(256, dtype=int)  # first frame of an object that is scored
    num_results = 0
    for t in range(len(ground_truth)):
        gt = _as_object(ground_truth.read(t), binary)
        result = _as_object(results.read(t), binary)
        check_same_size(gt, result, ground_truth.where(t), results.where(t))
        found = int(result.max(initial=0))
        _check_ids(found, limit, results.where(t), f"{limit} proposals allowed")
        num_results = max(num_results, found)
        entering = [k for k in ids_of(gt) if not seen[k]]
        seen[entering] = True
        begin[entering] = t if every else 0
        region[t], boundary[t] = frame_measures(
            gt, result, num_gt=num_gt, num_results=limit, void=_void(gt)
        )
    objects = np.flatnonzero(seen[1 : num_gt + 1])
    num_results = max(num_results, len(objects))  # missing proposals are empty masks
    region, boundary = region[:, objects, :num_results], boundary[:, objects, :num_results]
    begin = begin[objects + 1]
    score = np.zeros((num_results, len(objects)))
    for i, t in enumerate(begin):
        score[:, i] = ((region[t:, i] + boundary[t:, i]) / 2).mean(axis=0)
    proposals, columns = linear_sum_assignment(score, maximize=True)
    chosen = dict(zip(columns.tolist(), proposals.tolist()))
    late = np.flatnonzero(seen[num_gt + 1 : VOID]) + num_gt + 1
    notes = [ONE_OBJECT] if binary else []
    if len(late):
        notes.append(
            f"the ids {', '.join(map(str, late))} appear after the first frame and are not "
            "scored, as in the official tool"
        )
    return SequenceScores(
        name,
        [
            ObjectSeries(int(k) + 1, region[t:, i, chosen[i]], boundary[t:, i, chosen[i]])
            for i, (k, t) in enumerate(zip(objects, begin))
        ],
        assignment=[(int(p) + 1, int(objects[g]) + 1) for p, g in zip(proposals, columns)],
        notes=tuple(notes),
    )


# What the protocols share -------------------------------------------------------------------------


def _only_void(ground_truth: LabelMaps) -> bool:
    """True if masks hold nothing but 0 and 255: those of one object, in the encoding of 2016."""
    found_void = False
    for t in range(len(ground_truth)):
        ids = ids_of(ground_truth.read(t))
        if any(k < VOID for k in ids):
            return False
        found_void |= VOID in ids
    return found_void


def _as_object(labels: np.ndarray, binary: bool) -> np.ndarray:
    """Return label maps in which 255 is object 1 if they are in the encoding of 2016."""
    return np.where(labels == VOID, np.uint8(1), labels) if binary else labels


def _highest_first_id(ground_truth: LabelMaps, binary: bool, *, anywhere: bool) -> int:
    """Return the highest id, 255 aside, of the first frame that has one, or of all frames; 0
    without any."""
    highest = 0
    for t in range(len(ground_truth)):
        ids = ids_of(_as_object(ground_truth.read(t), binary))
        highest = max([highest, *(k for k in ids if k < VOID)])
        if highest and not anywhere:
            return highest
    return highest


def _void(gt: np.ndarray) -> np.ndarray | None:
    """Void pixels of a ground-truth map, None if there are none."""
    void = gt == VOID
    return void if void.any() else None


def _objects(count: int) -> str:
    return f"{count} object{'s' if count != 1 else ''} in the ground truth"


def _check_ids(found: int, highest: int, where: str, allowed: str) -> None:
    """Raise ResultFileError if the highest id found in results is too high."""
    if found > highest:
        hint = " (a 0/255 mask? write ids)" if found == VOID else ""
        raise ResultFileError(
            f"{where}: object id {found}{hint}, but there are only {allowed}; write the ids of "
            "the ground truth"
        )
