"""Finished videos on disk, so that a killed evaluation goes on where it stopped.

One json file per video below ``<folder>/videos``; a fingerprint tells which config and weights
they belong to.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from vis_metrics.files.writing import write_text_atomically

from ..structures import Track, VideoResult

logger = logging.getLogger(__name__)


def result_to_json(result: VideoResult) -> dict[str, Any]:
    """Return a VideoResult as plain lists and numbers."""
    tracks = [
        {"id": t.id, "category_scores": sorted(t.category_scores.items()), "masks": t.masks}
        for t in result.tracks
    ]
    return {"size": list(result.size), "length": result.length, "tracks": tracks}


def result_from_json(data: dict[str, Any]) -> VideoResult:
    """Inverse of ``result_to_json``."""
    tracks = [
        Track(t["id"], {int(c): s for c, s in t["category_scores"]}, t["masks"])
        for t in data["tracks"]
    ]
    return VideoResult(tracks, tuple(data["size"]), data["length"])


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

    def prepare(self) -> None:
        """Make the folder ready; one rank calls this, before any record is written."""
        if self.folder is None:
            return
        mark = self.folder / "fingerprint"
        same = mark.is_file() and mark.read_text() == self.fingerprint
        if self.folder.is_dir() and not (self.resume and same):
            if self.resume:
                logger.warning("%s: results of another config or weights; begun anew", self.folder)
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text_atomically(mark, self.fingerprint)

    def _file(self, video_id: Any) -> Path:
        digest = hashlib.sha1(repr(video_id).encode()).hexdigest()[:16]
        return self.folder / f"{digest}.json"

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
            write_text_atomically(self._file(video_id), json.dumps(result_to_json(result)))

    def get(self, video_id: Any) -> VideoResult:
        """Return a finished video."""
        if repr(video_id) in self._memory:
            return self._memory[repr(video_id)]
        return result_from_json(json.loads(self._file(video_id).read_text()))
