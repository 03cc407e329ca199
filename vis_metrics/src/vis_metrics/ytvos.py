"""J, F and G of YouTube-VOS on a split whose masks are public.

Letters: T frames that count (the union of all objects' frames), n evaluated frames.

The server's code is not public. Here an object is scored in the frames after its first one and
before the video's last one (FRTM's rule for its local split); J and F are averaged over objects,
separately for classes seen and unseen in training, and G is the mean of the four.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import GroundTruthError, ResultFileError
from .files.label_files import LabelMaps, check_same_size
from .files.label_tree import LabelTree, find_results
from .files.ytvos_meta import VosVideo, read_meta
from .region_boundary import frame_measures, series_statistics
from .video_pool import map_videos

GROUPS = ("seen", "unseen")
Job = tuple[LabelMaps, LabelMaps, list[str], str, VosVideo, "set[str] | None"]


def evaluate_ytvos(
    ground_truth: Path,
    results: Path,
    *,
    meta: Path | Mapping[str, Any],
    seen: set[str] | None = None,
    videos: Sequence[str] | None = None,
    num_workers: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Score a folder of label-map PNGs.

    Args:
        ground_truth: ``<video>/<frame>.png`` for every frame that counts, or the split's folder.
        results: same layout; a zip of it; a folder above, such as that of ``Annotations``, if
            there is one choice.
        meta: the split's ``meta.json`` or its content.
        seen: classes that occur in training; default: all.
        videos: names to score; default: all of ``meta``.
        num_workers: processes over videos; None takes the cores, 0 works in this one.
        progress: show a bar.

    Returns:
        fractions ``{"G", "J_seen", "J_unseen", "F_seen", "F_unseen", "per_object": {"<video>_<id>":
        {"category", "seen", "J-Mean", "J-Recall", "J-Decay", "F-Mean", ...}}}``. NaN where a group
        has no object; G is then the mean of the rest.

    Raises:
        GroundTruthError: also for a split with masks of first frames only, or without classes when
            ``seen`` asks for them.
        ResultFileError: missing frames, wrong sizes, unknown ids.
    """
    truth = read_meta(meta, videos)
    names = list(truth)
    annotations = LabelTree(_annotations(Path(ground_truth)), error=GroundTruthError)
    tree, _ = find_results(Path(results), names)
    jobs = [_job(annotations, tree, name, truth[name], seen) for name in names]
    rows = map_videos(
        _score_video,
        jobs,
        num_workers=num_workers,
        sizes=[len(gt) for gt, *_ in jobs],
        progress=progress,
    )
    return _summarize({name: row for part in rows for name, row in part.items()})


def sequence_series(
    gt: np.ndarray, results: np.ndarray, *, starts: Mapping[int, int]
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return J and F over time of every object of one video, float64 (T,), NaN where not scored.

    ``gt`` and ``results`` are label maps (T, H, W), ``starts`` maps ids to their first frame.
    Raises ResultFileError if the lengths differ.
    """
    if len(gt) != len(results):
        raise ResultFileError(f"{len(results)} label maps for {len(gt)} ground-truth frames")
    ids = sorted(starts)
    series = {k: (np.full(len(gt), np.nan), np.full(len(gt), np.nan)) for k in ids}
    for t in range(len(gt)):
        _score_frame(t, len(gt), gt[t], results[t], starts, series)
    return series


def _score_frame(
    t: int,
    length: int,
    gt: np.ndarray,
    result: np.ndarray,
    starts: Mapping[int, int],
    series: Mapping[int, tuple[np.ndarray, np.ndarray]],
) -> None:
    """Fill in frame ``t`` of the objects that are scored there."""
    scored = [k for k in sorted(starts) if starts[k] < t < length - 1]
    if not scored:
        return
    rename = np.zeros(256, dtype=np.uint8)
    rename[scored] = np.arange(1, len(scored) + 1)
    region, boundary = frame_measures(
        rename[gt], rename[result], num_gt=len(scored), num_results=len(scored)
    )
    for row, k in enumerate(scored):
        series[k][0][t] = region[row, row]
        series[k][1][t] = boundary[row, row]


def _annotations(folder: Path) -> Path:
    """Return the folder that holds the video folders."""
    if not folder.is_dir():
        raise GroundTruthError(f"{folder}: no such folder")
    inner = folder / "Annotations"
    return inner if inner.is_dir() else folder


def _job(
    ground_truth: LabelTree, results: LabelTree, name: str, video: VosVideo, seen: set[str] | None
) -> Job:
    """Check that a video's files and classes are there, before any long work."""
    first = min(item.frames[0] for item in video.objects)
    scored = [frame for frame in video.frames[:-1] if frame > first]
    sides = (
        (
            ground_truth,
            "the scored frames need masks, which the official valid and test splits keep secret",
        ),
        (
            results,
            "write one PNG for every frame that meta.json names, or say with --videos which part "
            "of its videos was segmented",
        ),
    )
    for tree, remedy in sides:
        present = tree.frames(name)
        missing = [frame for frame in scored if frame not in present]
        if missing:
            raise tree.error(
                f"{tree.where(name, missing[0])}: missing, as are {len(missing) - 1} more of "
                f"the {len(scored)} frames to score; {remedy}"
            )
    if seen is not None:
        hidden = [item.object_id for item in video.objects if item.category is None]
        if hidden:
            raise GroundTruthError(
                f"meta, video {name}, object {hidden[0]}: has no category, so it is neither seen "
                "nor unseen"
            )
    return ground_truth.maps(name, scored), results.maps(name, scored), scored, name, video, seen


def _score_video(job: Job) -> dict[str, dict[str, Any]]:
    """Score one video frame by frame; returns a row per object."""
    gt_maps, result_maps, scored, name, video, seen = job
    length = len(video.frames)
    starts = {item.object_id: video.frames.index(item.frames[0]) for item in video.objects}
    series = {k: (np.full(length, np.nan), np.full(length, np.nan)) for k in starts}
    known = np.zeros(256, dtype=bool)
    known[[0, *starts]] = True
    for place, frame in enumerate(scored):
        gt, result = gt_maps.read(place), result_maps.read(place)
        check_same_size(gt, result, gt_maps.where(place), result_maps.where(place))
        if not known[result].all():
            raise ResultFileError(
                f"{result_maps.where(place)}: object id {int(result[~known[result]][0])} is not "
                f"among those of the video, {', '.join(map(str, starts))}"
            )
        _score_frame(video.frames.index(frame), length, gt, result, starts, series)
    rows = {}
    for item in video.objects:
        region, boundary = map(series_statistics, series[item.object_id])
        rows[f"{name}_{item.object_id}"] = {
            "category": item.category,
            "seen": seen is None or item.category in seen,
            **{f"J-{k.title()}": v for k, v in region._asdict().items()},
            **{f"F-{k.title()}": v for k, v in boundary._asdict().items()},
        }
    return rows


def _summarize(per_object: dict[str, dict[str, Any]]) -> dict[str, Any]:
    report = {}
    for measure in "JF":
        for group in GROUPS:
            values = [
                row[f"{measure}-Mean"]
                for row in per_object.values()
                if row["seen"] == (group == "seen") and not np.isnan(row[f"{measure}-Mean"])
            ]
            report[f"{measure}_{group}"] = float(np.mean(values)) if values else float("nan")
    parts = [value for value in report.values() if not np.isnan(value)]
    return {
        "G": float(np.mean(parts)) if parts else float("nan"),
        **report,
        "per_object": per_object,
    }
