"""Results of single videos, as ``vis run`` writes them, in the ids of a ground truth.

A folder of one video holds ``results.json``, the plain YouTube-VIS list, and ``video.json`` with
the names of video and categories; a run over many videos has one such folder for each. Videos and
categories are found by their names, since such a run knows no data set's ids.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ResultFileError
from .json_files import load_json
from .names import is_hidden, natural_order, safe_name

logger = logging.getLogger(__name__)

RESULTS, VIDEO = "results.json", "video.json"


def read_run_folder(
    folder: Path, videos: Mapping[int, str], categories: Mapping[int, str]
) -> list[Any]:
    """Return the entries of all videos below a folder that the ground truth has.

    ``videos`` and ``categories``: the ground truth's names by id.
    Raises ResultFileError if there is no result, or none of a known video.
    """
    folder = Path(folder)
    if (folder / RESULTS).is_file():
        return read_result_file(folder / RESULTS, videos, categories)
    names = natural_order(p.name for p in folder.iterdir() if p.is_dir() and not is_hidden(p.name))
    files = [folder / name / RESULTS for name in names if (folder / name / RESULTS).is_file()]
    if not files:
        raise ResultFileError(
            f"{folder}: is a folder with neither {RESULTS} nor folders of videos that hold one"
        )
    found = [(file, _video_id(file, _description(file), videos)) for file in files]
    known = [(file, video_id) for file, video_id in found if video_id is not None]
    if not known:
        raise ResultFileError(
            f"{folder}: no folder in it is named like a video of the ground truth "
            f"({', '.join(f.parent.name for f in files[:3])} against "
            f"{', '.join(list(videos.values())[:3])})"
        )
    if len(known) < len(files):
        foreign = [file.parent.name for file, video_id in found if video_id is None]
        logger.warning(
            "%s: %d videos that the ground truth lacks are left out (%s)",
            folder,
            len(foreign),
            ", ".join(foreign[:5]),
        )
    seen: dict[int, Path] = {}
    for file, video_id in known:
        if video_id in seen:
            raise ResultFileError(
                f"{file}: the same video as {seen[video_id]}, {videos[video_id]}; keep one"
            )
        seen[video_id] = file
    entries: list[Any] = []
    for file, video_id in known:
        rows = read_result_file(file, videos, categories, video_id=video_id)
        if not isinstance(rows, list):
            raise ResultFileError(f"{file}: must be a list of tracks")
        entries += rows
    return entries


def read_result_file(
    file: Path,
    videos: Mapping[int, str],
    categories: Mapping[int, str],
    *,
    video_id: int | None = None,
) -> Any:
    """Return what a result file holds; the ids of a single video's become the ground truth's.

    ``video_id``: the video's, where it is known already.
    """
    content = load_json(file, error=ResultFileError)
    description = _description(file)
    if isinstance(content, Mapping) and "tracks" in content and "frames" in content:
        content, description = _former_list(content), {"name": Path(file).absolute().parent.name}
    elif not isinstance(content, list) or (description is None and video_id is None):
        return content
    if video_id is None:
        video_id = _video_id(file, description, videos)
    ids = _category_ids(description or {}, categories)
    for entry in content:
        if isinstance(entry, dict):
            entry["video_id"] = entry.get("video_id") if video_id is None else video_id
            entry["category_id"] = ids.get(entry.get("category_id"), entry.get("category_id"))
    return content


def _description(file: Path) -> dict[str, Any] | None:
    """Return what ``video.json`` says of the video beside it; None if it is not of one video."""
    beside = Path(file).parent / VIDEO
    if not beside.is_file():
        return None
    content = load_json(beside, error=ResultFileError)
    return content if isinstance(content, dict) and "name" in content else None


def _video_id(
    file: Path, description: Mapping[str, Any] | None, videos: Mapping[int, str]
) -> int | None:
    """Find a video by its name, or the name of its folder; the only video of a ground truth."""
    folder = Path(file).absolute().parent.name
    names = {str((description or {}).get("name")), folder}
    for video_id, name in videos.items():
        if name and (name in names or safe_name(name) == folder):
            return video_id
    return next(iter(videos)) if len(videos) == 1 else None


def _category_ids(description: Mapping[str, Any], categories: Mapping[int, str]) -> dict[Any, int]:
    """Return the ground truth's ids of a run's categories where all their names are known."""
    own = {c["id"]: c["name"] for c in description.get("categories") or ()}
    by_name = {name: identity for identity, name in categories.items()}
    if not own or not set(own.values()) <= by_name.keys():
        return {}
    return {identity: by_name[name] for identity, name in own.items()}


def _former_list(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the plain list of a ``results.json`` from before it was one."""
    return [
        {
            "video_id": 1,
            "category_id": int(category) + 1,
            "score": score,
            "segmentations": track["segmentations"],
        }
        for track in content["tracks"]
        for category, score in track["category_scores"].items()
    ]
