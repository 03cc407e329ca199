"""The three DAVIS protocols: 2016 (one object), semi-supervised 2017, unsupervised 2019.

Letters: T frames, H x W pixels, G ground-truth objects, P proposals, n evaluated frames.

A sequence is read frame by frame, so memory does not grow with its length. Numbers are those of
the official tools, with three differences on purpose: unsupervised results are named after the
object and not after the proposal, the decay of 256 frames and more is right, and bad input raises
an exception instead of ending the process with status 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from .errors import GroundTruthError, ResultFileError
from .files.davis_layout import PROTOCOLS, find_annotations, list_sequences
from .files.label_files import LabelArray, LabelFolder, LabelMaps, check_same_size, frame_names
from .region_boundary import VOID, frame_measures, series_statistics
from .video_pool import map_videos

MAX_PROPOSALS = 20  # of the unsupervised challenge


class ObjectSeries(NamedTuple):
    """One object's J and F over the evaluated frames, two float64 arrays (n,)."""

    object_id: int
    region: np.ndarray
    boundary: np.ndarray


class SequenceScores(NamedTuple):
    """What the scoring of one sequence gives.

    ``objects`` in the order of ids. ``encoding`` (2016 only) is ``"0/255"`` or ``"merged ids"``.
    ``assignment`` (unsup only): pairs (proposal, object), ids from 1, by proposal.
    """

    name: str
    objects: list[ObjectSeries]
    encoding: str | None = None
    assignment: list[tuple[int, int]] | None = None


def evaluate_davis(
    ground_truth: Path,
    results: Path,
    *,
    protocol: str,
    sequences: list[str] | None = None,
    num_workers: int = 0,
    progress: bool = False,
    official_order: bool = False,
) -> dict[str, Any]:
    """Score a folder of label-map PNGs and return fractions under the official names.

    Args:
        ground_truth: folder of sequence folders (``Annotations/480p``) or the DAVIS root.
        results: ``<results>/<sequence>/<frame>.png``, file names as in the ground truth.
        protocol: ``"2016"``, ``"semi"`` or ``"unsup"``.
        sequences: names to score; default: the validation list below a DAVIS root, or else the
            sequences found in ``results``.
        num_workers: processes over sequences; 0 works in this one.
        progress: show a bar.
        official_order: name unsupervised results after the official tool's rows (by proposal).

    Returns:
        ``{"J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay"}``, means
        over all objects, ``"per_object"`` with the same per object; NaN where no frame is
        evaluated. Protocol 2016 adds ``"encoding"`` of the ground truth.

    Raises:
        GroundTruthError, ResultFileError: missing files, wrong sizes, RGB PNGs, ids too high.
    """
    _check_protocol(protocol)
    annotations, root = find_annotations(Path(ground_truth), protocol)
    results = Path(results)
    if sequences is None:
        sequences = list_sequences(annotations, root, results, protocol)
    jobs = [_folder_job(annotations, results, name, protocol) for name in sequences]
    scores = map_videos(
        _score_job, jobs, num_workers=num_workers, unit="sequence", progress=progress
    )
    return summarize(scores, official_order=official_order)


def evaluate_davis_maps(
    ground_truth: Mapping[str, np.ndarray],
    results: Mapping[str, np.ndarray],
    *,
    protocol: str,
    progress: bool = False,
    official_order: bool = False,
) -> dict[str, Any]:
    """Score label maps in memory, ``{sequence: (T, H, W)}``; otherwise as ``evaluate_davis``."""
    _check_protocol(protocol)
    missing = [name for name in ground_truth if name not in results]
    if missing:
        raise ResultFileError(f"results lack {len(missing)} sequences, first {missing[0]}")
    jobs = []
    for name, maps in ground_truth.items():
        gt = LabelArray(maps, f"ground truth of {name}", GroundTruthError)
        own = LabelArray(results[name], f"results of {name}", ResultFileError)
        jobs.append((name, gt, own, protocol))
    scores = map_videos(_score_job, jobs, unit="sequence", progress=progress)
    return summarize(scores, official_order=official_order)


def score_sequence(
    name: str, ground_truth: LabelMaps, results: LabelMaps, protocol: str
) -> SequenceScores:
    """Score one sequence.

    Raises ResultFileError if lengths or sizes differ or an id is too high, GroundTruthError if
    masks are in the 0/255 encoding of 2016 where ids are needed.
    """
    if len(ground_truth) != len(results):
        raise ResultFileError(
            f"results of {name}: {len(results)} frames, the ground truth has {len(ground_truth)}; "
            "write one label map per frame"
        )
    rule = {"2016": _score_2016, "semi": _score_semi, "unsup": _score_unsup}[protocol]
    return rule(name, ground_truth, results)


def summarize(scores: Iterable[SequenceScores], *, official_order: bool = False) -> dict[str, Any]:
    """Average over all objects of all sequences and name the single results."""
    per_object: dict[str, dict[str, float]] = {}
    encodings: dict[str, None] = {}
    for sequence in scores:
        if sequence.encoding is not None:
            encodings[sequence.encoding] = None
        for label, series in _labelled(sequence, official_order):
            region = series_statistics(series.region)
            boundary = series_statistics(series.boundary)
            per_object[label] = {
                **{f"J-{k.title()}": v for k, v in region._asdict().items()},
                **{f"F-{k.title()}": v for k, v in boundary._asdict().items()},
            }
    keys = [f"{measure}-{part}" for measure in "JF" for part in ("Mean", "Recall", "Decay")]
    means = {key: _mean([row[key] for row in per_object.values()]) for key in keys}
    report = {"J&F-Mean": (means["J-Mean"] + means["F-Mean"]) / 2, **means}
    if encodings:
        report["encoding"] = " and ".join(encodings)
    return {**report, "per_object": per_object}


def _labelled(sequence: SequenceScores, official_order: bool) -> list[tuple[str, ObjectSeries]]:
    """Name the objects of a sequence as the official reports do."""
    if sequence.encoding is not None:
        return [(sequence.name, series) for series in sequence.objects]
    if official_order and sequence.assignment is not None:
        by_id = {series.object_id: series for series in sequence.objects}
        rows = [by_id[object_id] for _, object_id in sequence.assignment]
        return [(f"{sequence.name}_{row + 1}", series) for row, series in enumerate(rows)]
    return [(f"{sequence.name}_{series.object_id}", series) for series in sequence.objects]


def _mean(values: Sequence[float]) -> float:
    """Mean without NaN; NaN if nothing is left."""
    array = np.asarray(values, dtype=np.float64)
    array = array[~np.isnan(array)]
    return float(np.mean(array)) if len(array) else float("nan")


# The protocols -----------------------------------------------------------------------------------


class _MixedEncoding(Exception):
    """Ids turned up in ground truth that looked like the 0/255 encoding so far."""


def _score_2016(name: str, ground_truth: LabelMaps, results: LabelMaps) -> SequenceScores:
    """One object, frames 1..T-2.

    Masks that hold nothing but 0 and 255 are DAVIS-2016 ones, 255 being the object. Otherwise
    they are DAVIS-2017 ones: all ids are merged, and 255 is void.
    """
    try:
        object_series = _series_2016(ground_truth, results, merged=False)
        encoding = "0/255"
    except _MixedEncoding:
        object_series = _series_2016(ground_truth, results, merged=True)
        encoding = "merged ids"
    return SequenceScores(name, [object_series], encoding=encoding)


def _series_2016(ground_truth: LabelMaps, results: LabelMaps, *, merged: bool) -> ObjectSeries:
    values = []
    for t in range(len(ground_truth)):
        gt = ground_truth.read(t)
        if not merged and np.any((gt > 0) & (gt < VOID)):
            raise _MixedEncoding
        if not 0 < t < len(ground_truth) - 1:
            continue
        result = results.read(t)
        check_same_size(gt, result, ground_truth.where(t), results.where(t))
        region, boundary = frame_measures(
            (gt > 0).astype(np.uint8),
            (result > 0).astype(np.uint8),
            num_gt=1,
            num_results=1,
            void=_void(gt) if merged else None,
        )
        values.append((region[0, 0], boundary[0, 0]))
    return ObjectSeries(1, *np.reshape(values, (-1, 2)).T)


def _score_semi(name: str, ground_truth: LabelMaps, results: LabelMaps) -> SequenceScores:
    """Objects of frame 0, frames 1..T-2, 255 is background."""
    num_gt = _objects_of_first_frame(ground_truth)
    region = np.zeros((max(len(ground_truth) - 2, 0), num_gt))
    boundary = np.zeros_like(region)
    for t in range(1, len(ground_truth) - 1):
        gt, result = ground_truth.read(t), results.read(t)
        check_same_size(gt, result, ground_truth.where(t), results.where(t))
        _check_ids(result, num_gt, results.where(t), "objects in the ground truth's first frame")
        pairs = frame_measures(gt, result, num_gt=num_gt, num_results=num_gt)
        region[t - 1], boundary[t - 1] = np.diagonal(pairs[0]), np.diagonal(pairs[1])
    return SequenceScores(
        name, [ObjectSeries(k + 1, region[:, k], boundary[:, k]) for k in range(num_gt)]
    )


def _score_unsup(name: str, ground_truth: LabelMaps, results: LabelMaps) -> SequenceScores:
    """Objects of frame 0, all frames, void removed, objects matched to proposals by J and F."""
    num_gt = _objects_of_first_frame(ground_truth)
    limit = max(MAX_PROPOSALS, num_gt)
    region = np.zeros((len(ground_truth), num_gt, limit))
    boundary = np.zeros_like(region)
    num_results = 0
    for t in range(len(ground_truth)):
        gt, result = ground_truth.read(t), results.read(t)
        check_same_size(gt, result, ground_truth.where(t), results.where(t))
        _check_ids(result, MAX_PROPOSALS, results.where(t), "proposals allowed")
        num_results = max(num_results, int(result.max()))
        region[t], boundary[t] = frame_measures(
            gt, result, num_gt=num_gt, num_results=limit, void=_void(gt)
        )
    num_results = max(num_results, num_gt)  # missing proposals are empty masks
    region, boundary = region[:, :, :num_results], boundary[:, :, :num_results]
    score = ((region + boundary) / 2).mean(axis=0).T  # (P, G)
    proposals, objects = linear_sum_assignment(score, maximize=True)
    chosen = dict(zip(objects.tolist(), proposals.tolist()))
    return SequenceScores(
        name,
        [
            ObjectSeries(k + 1, region[:, k, chosen[k]], boundary[:, k, chosen[k]])
            for k in range(num_gt)
        ],
        assignment=[(int(p) + 1, int(g) + 1) for p, g in zip(proposals, objects)],
    )


def _void(gt: np.ndarray) -> np.ndarray | None:
    """Void pixels of a ground-truth map, None if there are none."""
    void = gt == VOID
    return void if void.any() else None


def _objects_of_first_frame(ground_truth: LabelMaps) -> int:
    """Return the highest id of frame 0, 255 aside."""
    first = ground_truth.read(0)
    count = int(np.where(first == VOID, 0, first).max())
    if count == 0 and (first == VOID).any():
        raise GroundTruthError(
            f"{ground_truth.where(0)}: holds only 0 and 255, which is void here; these look like "
            "DAVIS-2016 masks: use protocol 2016, or convert 255 to 1"
        )
    return count


def _check_ids(result: np.ndarray, highest: int, where: str, meaning: str) -> None:
    found = int(result.max(initial=0))
    if found > highest:
        hint = " (a 0/255 mask? write ids)" if found == VOID else ""
        raise ResultFileError(
            f"{where}: object id {found}{hint}, but there are only {highest} {meaning}; "
            "ids must run from 1 to that number"
        )


# Running over sequences --------------------------------------------------------------------------


def _check_protocol(protocol: str) -> None:
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol {protocol!r} is none of {', '.join(PROTOCOLS)}")


def _folder_job(
    annotations: Path, results: Path, name: str, protocol: str
) -> tuple[str, LabelFolder, LabelFolder, str]:
    """Check that a sequence's files are there, before any long work, and describe the work."""
    names = frame_names(annotations / name)
    if not (results / name).is_dir():
        raise ResultFileError(
            f"{results / name}: no such folder; write the PNGs of every sequence that is scored"
        )
    present = {file.name for file in (results / name).iterdir()}
    needed = names if protocol == "unsup" else names[1:-1]
    missing = [frame for frame in needed if frame not in present]
    if missing:
        raise ResultFileError(
            f"{results / name / missing[0]}: missing, as are {len(missing) - 1} more of the "
            f"{len(needed)} frames to score; write one PNG per frame, named as in {annotations}"
        )
    gt = LabelFolder(annotations / name, names, GroundTruthError)
    return name, gt, LabelFolder(results / name, names, ResultFileError), protocol


def _score_job(job: tuple[str, LabelMaps, LabelMaps, str]) -> SequenceScores:
    return score_sequence(*job)
