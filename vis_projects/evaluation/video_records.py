"""Finished videos on disk, so that a killed evaluation goes on where it stopped.

One file of ``VideoResult.save`` per video below ``<folder>/videos``; a fingerprint tells which
config and weights they belong to.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from pathlib import Path
from typing import Any

from vis_metrics.files.names import safe_name
from vis_metrics.files.writing import write_text_atomically

from ..structures import InputError, Track, VideoResult

logger = logging.getLogger(__name__)

FORMER_NAME = re.compile(r"[0-9a-f]{16}\.json")  # of records before they had readable names


def result_to_json(result: VideoResult) -> dict[str, Any]:
    """Return a VideoResult as plain lists and numbers, to be sent to another process."""
    fields = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    fields["tracks"] = [
        {"id": t.id, "category_scores": sorted(t.category_scores.items()), "masks": t.masks}
        for t in result.tracks
    ]
    return fields


def result_from_json(data: dict[str, Any]) -> VideoResult:
    """Inverse of ``result_to_json``."""
    tracks = [
        Track(t["id"], {int(c): s for c, s in t["category_scores"]}, t["masks"])
        for t in data["tracks"]
    ]
    return VideoResult(**{**data, "tracks": tracks, "size": tuple(data["size"])})


class VideoRecords:
    """Keeps every finished video's result.

    Args:
        folder: where the records go; None keeps them in memory.
        fingerprint: identifies config and weights; records of another run are deleted.
        resume: use the records that are there; otherwise begin anew.
    """

    def __init__(self, folder: Path | None, *, fingerprint: str = "", resume: bool = False) -> None:
        self.folder = None if folder is None else folder / "videos"
        self.fingerprint = fingerprint
        self.resume = resume
        self._memory: dict[str, VideoResult] = {}

    def prepare(self) -> bool:
        """Make the folder ready; one rank calls this, before any record is written.

        Returns False if earlier records go on to be used, True if all begins anew.
        """
        self._memory.clear()
        if self.folder is None:
            return True
        mark = self.folder / "fingerprint"
        ours = mark.is_file()
        same = ours and mark.read_text() == self.fingerprint
        if ours and not (self.resume and same):
            if self.resume:
                logger.warning("%s: results of another config or weights; begun anew", self.folder)
            for file in self.folder.glob("*.json"):
                if FORMER_NAME.fullmatch(file.name) or _is_record(file):
                    file.unlink()
        write_text_atomically(mark, self.fingerprint)
        return not (self.resume and same)

    def _file(self, video_id: Any) -> Path:
        return self.folder / f"{safe_name(str(video_id))}.json"

    def has(self, video_id: Any) -> bool:
        """True if the video is finished."""
        if repr(video_id) in self._memory:
            return True
        return self.folder is not None and self.resume and self._file(video_id).is_file()

    def add(self, video_id: Any, result: VideoResult) -> None:
        """Keep a finished video."""
        if self.folder is None:
            self._memory[repr(video_id)] = result
        else:
            result.save(self._file(video_id))

    def get(self, video_id: Any) -> VideoResult:
        """Return a finished video."""
        if repr(video_id) in self._memory:
            return self._memory[repr(video_id)]
        return VideoResult.load(self._file(video_id))

    def usable(self, video_id: Any, size: tuple[int, int], length: int) -> bool:
        """True if a finished video can be read and is of this size and length."""
        if not self.has(video_id):
            return False
        try:
            result = self.get(video_id)
        except (InputError, KeyError, TypeError):
            return False
        return (tuple(result.size), result.length) == (tuple(size), length)


def _is_record(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return b'"kind": "vis_projects.VideoResult"' in stream.read(200)
    except OSError:
        return False
