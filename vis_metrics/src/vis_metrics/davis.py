"""DAVIS: J and F of folders, zips or arrays of label maps, and their means.

Letters: T frames, H x W pixels. The three protocols are in ``davis_protocols``.

Numbers are those of the official tools on official data, with three differences on purpose:
unsupervised results are named after the object and not after the proposal, the decay of 256 frames
and more is right, and bad input raises an exception instead of ending the process with status 0.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .davis_protocols import UNSUPERVISED, ObjectSeries, SequenceScores, score_sequence
from .errors import GroundTruthError, ResultFileError
from .files.davis_layout import find_annotations, known_protocol, list_sequences
from .files.label_files import LabelArray, LabelMaps
from .files.label_tree import LabelTree, find_results
from .files.names import is_sparse, natural_order
from .region_boundary import series_statistics
from .video_pool import map_videos

logger = logging.getLogger(__name__)

Job = tuple[str, LabelMaps, LabelMaps, str, bool]


def evaluate_davis(
    ground_truth: Path,
    results: Path,
    *,
    protocol: str,
    sequences: Sequence[str] | None = None,
    frames: Mapping[str, Sequence[str]] | None = None,
    num_workers: int | None = None,
    progress: bool = False,
    official_order: bool = False,
) -> dict[str, Any]:
    """Score a folder of label-map PNGs and return fractions under the official names.

    Args:
        ground_truth: folder of sequence folders (``Annotations/480p``) or the DAVIS root.
        results: ``<results>/<sequence>/<frame>.png``, frames named as in the ground truth; a zip
            of it; a folder above, if there is one choice; the folder of one sequence.
        protocol: ``"2016"``, ``"semi"`` (or ``"2017"``), ``"unsup"`` (or ``"2019"``), or
            ``"unsup-all"``: objects that enter late count too, from their first mask on.
        sequences: names to score; default: the validation list below a DAVIS root, or else the
            sequences found in ``results``.
        frames: names of all frames of a sequence, where not all of them are annotated. By default
            results between annotated frames tell that there are more.
        num_workers: processes over sequences; None takes the cores, 0 works in this one.
        progress: show a bar.
        official_order: name unsupervised results after the official tool's rows (by proposal).

    Returns:
        ``{"J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay"}``, means
        over all objects, ``"per_object"`` with the same per object; NaN where no frame is
        evaluated. Protocol 2016 adds ``"encoding"`` of the ground truth.

    Raises:
        GroundTruthError, ResultFileError: missing files, wrong sizes, RGB PNGs, ids too high.
    """
    protocol = known_protocol(protocol)
    annotations, root = find_annotations(Path(ground_truth), protocol)
    if sequences is None:
        tree, sequences = list_sequences(annotations, root, Path(results), protocol)
    else:
        tree, _ = find_results(Path(results), sequences)
    frames = frames or {}
    jobs = [_job(annotations, tree, name, protocol, frames.get(name)) for name in sequences]
    scores = map_videos(
        _score_job,
        jobs,
        num_workers=num_workers,
        sizes=[len(gt) for _, gt, *_ in jobs],
        unit="sequence",
        progress=progress,
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
    protocol = known_protocol(protocol)
    missing = [name for name in ground_truth if name not in results]
    if missing:
        raise ResultFileError(f"results lack {len(missing)} sequences, first {missing[0]}")
    jobs = []
    for name, maps in ground_truth.items():
        gt = LabelArray(maps, f"ground truth of {name}", GroundTruthError)
        own = LabelArray(results[name], f"results of {name}", ResultFileError)
        jobs.append((name, gt, own, protocol, False))
    scores = map_videos(_score_job, jobs, num_workers=0, unit="sequence", progress=progress)
    return summarize(scores, official_order=official_order)


def summarize(scores: Iterable[SequenceScores], *, official_order: bool = False) -> dict[str, Any]:
    """Average over all objects of all sequences and name the single results."""
    per_object: dict[str, dict[str, float]] = {}
    encodings: dict[str, None] = {}
    for sequence in scores:
        for note in sequence.notes:
            logger.warning("%s: %s", sequence.name, note)
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


# Running over sequences --------------------------------------------------------------------------


def _job(
    annotations: LabelTree,
    results: LabelTree,
    name: str,
    protocol: str,
    frames: Sequence[str] | None,
) -> Job:
    """Check that a sequence's files are there, before any long work, and describe the work."""
    annotated = list(annotations.require_frames(name))
    present = results.frames(name)
    if not present:
        raise ResultFileError(
            f"{results.place / name}: no such folder; write the PNGs of every sequence that is "
            "scored"
        )
    last = _last_frame(annotated, present, frames)
    goes_on = annotated[-1] != last
    needed = annotated if protocol in UNSUPERVISED else annotated[1 : None if goes_on else -1]
    missing = [frame for frame in needed if frame not in present]
    if missing:
        raise ResultFileError(
            f"{results.where(name, missing[0])}: missing, as are {len(missing) - 1} more of the "
            f"{len(needed)} frames to score; write one PNG per frame, named as in "
            f"{annotations.place}"
        )
    # frames that are not read may lack results
    own = results.maps(name, [frame if frame in present else needed[0] for frame in annotated])
    return name, annotations.maps(name, annotated), own, protocol, goes_on


def _last_frame(
    annotated: Sequence[str], present: Iterable[str], frames: Sequence[str] | None
) -> str:
    """Return the last frame of the video, of which not every frame need be annotated."""
    if frames is not None:
        return Path(frames[-1]).stem if len(frames) else annotated[-1]
    if is_sparse(annotated, present):
        return natural_order({*annotated, *present})[-1]
    return annotated[-1]


def _score_job(job: Job) -> SequenceScores:
    return score_sequence(*job[:4], goes_on=job[4])
