"""The output folder of `vis run` on many videos, read like one YouTube-VIS result list."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ResultFileError
from .json_files import load_json
from .names import is_hidden, natural_key, safe_name

logger = logging.getLogger(__name__)
FILE = "results.json"


def read_folder(folder: Path, videos: Mapping[str, int]) -> tuple[str, list[Any]]:
    """Return name and entries of a folder of results: its own list, or those of its videos.

    Args:
        folder: holds ``results.json``, or ``<video>/results.json`` for each video.
        videos: ids of the ground truth's videos by the name of their folder of frames.

    Raises:
        ResultFileError: neither of the two, or no video that the ground truth knows.
    """
    if (folder / FILE).is_file():
        return str(folder / FILE), load_json(folder / FILE, error=ResultFileError)
    by_name = {safe_name(name): identity for name, identity in videos.items()}
    found = [f for f in folder.glob(f"*/{FILE}") if not is_hidden(f.parent.name)]
    if not found:
        raise ResultFileError(f"{folder}: neither {FILE} nor <video>/{FILE} is in this folder")
    entries: list[Any] = []
    foreign: list[str] = []
    for file in sorted(found, key=lambda f: natural_key(f.parent.name)):
        identity = by_name.get(file.parent.name)
        if identity is None:
            foreign.append(file.parent.name)
            continue
        rows = load_json(file, error=ResultFileError)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ResultFileError(f"{file}: must be a list of tracks")
        entries += [{**row, "video_id": identity} for row in rows]
    if len(foreign) == len(found):
        raise ResultFileError(
            f"{folder}: no folder in it is named like a video of the ground truth "
            f"({', '.join(foreign[:3])} against {', '.join(list(videos)[:3])})"
        )
    if foreign:
        logger.warning(
            "%s: %d videos that the ground truth lacks are left out (%s)",
            folder,
            len(foreign),
            ", ".join(foreign[:5]),
        )
    return str(folder), entries
