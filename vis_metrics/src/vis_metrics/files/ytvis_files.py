"""The YouTube-VIS / OVIS ground truth and result lists, checked while they are read.

Letters: T frames, H x W pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_util

from ..errors import GroundTruthError, ResultFileError
from .json_files import load_json
from .run_folders import read_result_file, read_run_folder
from .run_lists import parse_annotations

logger = logging.getLogger(__name__)

RLE = Mapping[str, Any]


class Video(NamedTuple):
    """Size and length of a video."""

    height: int
    width: int
    length: int


@dataclass
class GroundTruth:
    """A checked ground truth. ``annotations`` is None for a set whose objects are not public.

    Attributes:
        name: file name for messages.
        videos: by ascending id.
        categories: names by ascending id.
        annotations: objects of each video, in file order.
        video_names: names by id, "" where the file tells none.
    """

    name: str
    videos: dict[int, Video]
    categories: dict[int, str]
    annotations: dict[int, list[dict[str, Any]]] | None = field(default=None)
    video_names: dict[int, str] = field(default_factory=dict)


def read_ground_truth(ground_truth: Path | str | Mapping[str, Any]) -> GroundTruth:
    """Read and check a YouTube-VIS ground truth, a file or its content.

    Raises GroundTruthError naming the file, the entry and what is wrong with it.
    """
    if isinstance(ground_truth, Mapping):
        name, content = "ground truth", ground_truth
    else:
        name = str(ground_truth)
        content = load_json(Path(ground_truth), error=GroundTruthError, parse=parse_annotations)
    if not isinstance(content, Mapping):
        raise GroundTruthError(
            f"{name}: must be an object with videos, categories and annotations, "
            f"not a {type(content).__name__}; is this a result file?"
        )
    for key in ("videos", "categories"):
        if not isinstance(content.get(key), Sequence):
            raise GroundTruthError(f"{name}: key '{key}' is missing or not a list")
        if not content[key]:
            raise GroundTruthError(f"{name}: '{key}' is empty")
    videos = _read_videos(name, content["videos"])
    categories: dict[int, str] = {}
    for index, entry in enumerate(content["categories"]):
        where = f"{name}, categories[{index}]"
        identity = _integer(entry, "id", where, GroundTruthError)
        if identity in categories:
            raise GroundTruthError(f"{where}: category id {identity} occurs twice")
        categories[identity] = str(entry.get("name", identity))
    truth = GroundTruth(name, videos, dict(sorted(categories.items())))
    truth.video_names = {entry["id"]: _video_name(entry) for entry in content["videos"]}
    if content.get("annotations") is not None:
        truth.annotations = _read_annotations(truth, content["annotations"])
    return truth


def _read_videos(name: str, entries: Sequence[Any]) -> dict[int, Video]:
    videos: dict[int, Video] = {}
    for index, entry in enumerate(entries):
        where = f"{name}, videos[{index}]"
        identity = _integer(entry, "id", where, GroundTruthError)
        where = f"{name}, video {identity}"
        if identity in videos:
            raise GroundTruthError(f"{where}: this id occurs twice")
        size = [_integer(entry, key, where, GroundTruthError) for key in Video._fields[:2]]
        files = entry.get("file_names")
        length = entry.get("length", len(files) if files is not None else None)
        if not isinstance(length, int):
            raise GroundTruthError(f"{where}: 'length' is missing or not an integer")
        video = Video(*size, length)
        if min(video) < 1:
            raise GroundTruthError(f"{where}: height, width and length must be positive: {video}")
        if files is not None and len(files) != length:
            raise GroundTruthError(f"{where}: {len(files)} file_names but length {length}")
        videos[identity] = video
    return dict(sorted(videos.items()))


def _video_name(entry: Mapping[str, Any]) -> str:
    """Return a video's name: its own, or that of the folder of its frames."""
    files = entry.get("file_names") or [""]
    return str(entry.get("name") or PurePosixPath(str(files[0]).replace("\\", "/")).parent.name)


def _read_annotations(truth: GroundTruth, entries: Any) -> dict[int, list[dict[str, Any]]]:
    if not isinstance(entries, Sequence):
        raise GroundTruthError(f"{truth.name}: 'annotations' is not a list")
    grouped: dict[int, list[dict[str, Any]]] = {video: [] for video in truth.videos}
    seen: set[int] = set()
    for index, entry in enumerate(entries):
        where = f"{truth.name}, annotations[{index}]"
        identity = _integer(entry, "id", where, GroundTruthError)
        where = f"{truth.name}, annotation {identity}"
        if identity < 1 or identity in seen:
            problem = "this id occurs twice" if identity in seen else "ids must start at 1"
            raise GroundTruthError(f"{where}: {problem}")
        seen.add(identity)
        video_id = _integer(entry, "video_id", where, GroundTruthError)
        if video_id not in truth.videos:
            raise GroundTruthError(f"{where}: video_id {video_id} is not among the videos")
        category = _integer(entry, "category_id", where, GroundTruthError)
        if category not in truth.categories:
            raise GroundTruthError(f"{where}: category_id {category} is not among the categories")
        _check_object(entry, truth.videos[video_id], where)
        grouped[video_id].append(entry)
    return grouped


def _check_object(entry: Mapping[str, Any], video: Video, where: str) -> None:
    """Check the per-frame lists of a ground-truth object."""
    size = [video.height, video.width]
    masks = entry.get("segmentations")
    if not isinstance(masks, Sequence):
        raise GroundTruthError(f"{where}: key 'segmentations' is missing or not a list")
    for key in ("segmentations", "areas", "occlusion"):
        values = entry.get(key)
        if values is not None and len(values) != video.length:
            raise GroundTruthError(
                f"{where}: {len(values)} {key} but its video {entry['video_id']} has "
                f"{video.length} frames; give one entry per frame, null where absent"
            )
    for t, mask in enumerate(masks):
        if mask is None or isinstance(mask, list):
            continue
        counts = mask.get("counts") if isinstance(mask, dict | Mapping) else None
        if not isinstance(counts, list | str | bytes | np.ndarray) or "size" not in mask:
            raise GroundTruthError(
                f"{where}, frame {t}: a segmentation is null, polygons or an RLE with size and "
                "counts"
            )
        if list(mask["size"]) != size:
            raise GroundTruthError(
                f"{where}, frame {t}: mask of size {list(mask['size'])}, its video has {size}"
            )
        if isinstance(counts, str | bytes):
            continue
        covered = int(np.sum(counts, dtype=np.int64))
        if covered != size[0] * size[1]:
            raise GroundTruthError(
                f"{where}, frame {t}: RLE runs cover {covered} of {size[0] * size[1]} pixels"
            )


def compressed(mask: Any, video: Video) -> RLE | None:
    """Return a ground-truth segmentation as compressed RLE, None if the object is absent.

    Polygons with fewer than three points or an odd number of coordinates are dropped.
    """
    if mask is None:
        return None
    if isinstance(mask, dict | Mapping):
        if not isinstance(mask["counts"], str | bytes):
            return mask_util.frPyObjects(mask, video.height, video.width)
        return mask
    polygons = [p for p in mask if len(p) >= 6 and len(p) % 2 == 0]
    if not polygons:
        return None
    return mask_util.merge(mask_util.frPyObjects(polygons, video.height, video.width))


def read_results(
    results: Path | str | Sequence[Mapping[str, Any]], truth: GroundTruth
) -> dict[int, list[Mapping[str, Any]]]:
    """Read and check results, a json file, its zip or its content; returns the tracks per video.

    Tracks of a category that the ground truth lacks are left out with a warning, as the official
    tool does without one. The order in the file is kept.
    Raises ResultFileError naming the file, the entry and what is wrong with it.
    """
    name, entries = open_results(results, truth)
    grouped: dict[int, list[Mapping[str, Any]]] = {video: [] for video in truth.videos}
    unknown: dict[int, int] = {}
    for index, entry in enumerate(entries):
        check_result(entry, truth, f"{name}, entry {index}")
        category = entry["category_id"]
        if category in truth.categories:
            grouped[entry["video_id"]].append(entry)
        else:
            unknown[category] = unknown.get(category, 0) + 1
    if unknown:
        logger.warning(
            "%s: %d tracks of categories that %s lacks are ignored (category_id %s); results in "
            "another data set's ids?",
            name,
            sum(unknown.values()),
            truth.name,
            ", ".join(map(str, sorted(unknown)[:5])),
        )
    return grouped


def open_results(
    results: Path | str | Sequence[Any], truth: GroundTruth
) -> tuple[str, Sequence[Any]]:
    """Return name and list of a result file or folder, unchecked but for being a list."""
    if isinstance(results, str | Path):
        name, names = str(results), (truth.video_names, truth.categories)
        read = read_run_folder if Path(results).is_dir() else read_result_file
        entries = read(Path(results), *names)
    else:
        name, entries = "results", results
    if not isinstance(entries, Sequence) or isinstance(entries, str | bytes):
        raise ResultFileError(
            f"{name}: must be a list of tracks, not a {type(entries).__name__}; is this a "
            "ground-truth file?"
        )
    return name, entries


def check_result(entry: Any, truth: GroundTruth, where: str) -> None:
    """Check one track of a result list; unknown categories pass.

    Raises ResultFileError.
    """
    video_id = _integer(entry, "video_id", where, ResultFileError)
    if video_id not in truth.videos:
        raise ResultFileError(
            f"{where}: video_id {video_id} is not in {truth.name}; results of another data set "
            "or split"
        )
    _integer(entry, "category_id", where, ResultFileError)
    where = f"{where} (video {video_id})"
    score = entry.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or score - score != 0:
        raise ResultFileError(f"{where}: 'score' must be a finite number, not {score!r}")
    video = truth.videos[video_id]
    masks = entry.get("segmentations")
    if not isinstance(masks, Sequence):
        raise ResultFileError(f"{where}: key 'segmentations' is missing or not a list")
    if len(masks) != video.length:
        raise ResultFileError(
            f"{where}: {len(masks)} segmentations but the video has {video.length} frames; give "
            "one entry per frame, null where the object is absent"
        )
    size = [video.height, video.width]
    try:
        present = [mask for mask in masks if mask is not None]
        texts = {type(mask["counts"]) for mask in present} <= {str}
        good = texts and [mask["size"] for mask in present].count(size) == len(present)
    except (TypeError, KeyError, IndexError):
        good = False
    if not good:
        for t, mask in enumerate(masks):
            if mask is not None:
                _check_mask(mask, size, f"{where}, frame {t}")


def _check_mask(mask: Any, size: list[int], where: str) -> None:
    """Check one result mask thoroughly: null or compressed RLE of the video's size."""
    if not isinstance(mask, Mapping) or "size" not in mask or "counts" not in mask:
        raise ResultFileError(
            f"{where}: a segmentation is null or a compressed RLE with size and counts"
        )
    if not isinstance(mask["counts"], str | bytes):
        raise ResultFileError(
            f"{where}: counts must be a compressed string; encode the mask with pycocotools"
        )
    if list(mask["size"]) != size:
        raise ResultFileError(
            f"{where}: mask of size {list(mask['size'])} but the video has {size} (height, "
            "width); write masks in the video's size, not the network's"
        )


def _integer(entry: Any, key: str, where: str, error: type[Exception]) -> int:
    """Return an integer field or raise ``error``."""
    if not isinstance(entry, Mapping):
        raise error(f"{where}: must be an object with keys, not a {type(entry).__name__}")
    value = entry.get(key)
    if type(value) is not int:
        problem = f"key '{key}' is missing" if key not in entry else f"'{key}' is {value!r}"
        raise error(f"{where}: {problem}; an integer is needed")
    return value
