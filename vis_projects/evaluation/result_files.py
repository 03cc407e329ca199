"""The folder of one evaluation: label maps, zips, a manifest, and nothing left of another run."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vis_metrics.files.names import is_hidden
from vis_metrics.files.writing import (
    write_sequence,
    write_text_atomically,
    zip_folder,
)

from ..structures import InputError

_PART = re.compile(r"\.(.+)\.[a-z0-9_]{8}")  # what writes in the way of vis_metrics.files.writing
WRITTEN = "written.txt"  # names of the video folders that evaluations have written here
MANIFEST = "manifest.jsonl"
OUTCOME = ("results.json", "results.zip", "Annotations.zip", "video.json", MANIFEST)


class LabelMapFolder:
    """``<folder>/<inner>/<video>/<frame>.png``; every video appears complete and alone.

    Args:
        folder: of the evaluation.
        inner: ``results`` (DAVIS) or ``Annotations`` (YouTube-VOS).
    """

    def __init__(self, folder: Path, inner: str) -> None:
        self.folder = folder
        self.maps = folder / inner

    def write(self, video: str, maps: Iterable[np.ndarray], names: Sequence[str]) -> None:
        """Write a video's maps in place of whatever an earlier run wrote for it.

        Raises InputError for a name that would leave the folder.
        """
        path = PurePosixPath(video.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or not path.parts or is_hidden(path.parts[0]):
            raise InputError(f"video {video!r}: no name for a folder of results; rename the video")
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / WRITTEN).open("a", encoding="utf-8") as file:
            file.write(f"{video}\n")  # one short write: ranks may append at once
        write_sequence(self.maps / video, maps, names)

    def remove_others(self, videos: Collection[str]) -> None:
        """Remove the maps of videos that earlier evaluations wrote and this one does not have."""
        record = self.folder / WRITTEN
        if not record.is_file():
            return
        written = dict.fromkeys(record.read_text(encoding="utf-8").splitlines())
        for video in written:
            if video not in videos and ".." not in PurePosixPath(video).parts:
                for file in (self.maps / video).glob("*.png"):
                    file.unlink()
                with contextlib.suppress(OSError):  # something else lies there
                    (self.maps / video).rmdir()
        write_text_atomically(record, "".join(f"{video}\n" for video in videos))

    def zip(self, videos: Sequence[str], *, with_folder: bool) -> Path:
        """Zip the maps of these videos and return the archive."""
        return zip_folder(self.maps, with_folder=with_folder, only=videos)


def remove_outcome(folder: Path) -> None:
    """Remove the files that sum up an earlier evaluation: what begins anew must not be taken for
    it, whatever becomes of it."""
    for name in OUTCOME:
        (folder / name).unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Remove what killed evaluations left half written in their folder, and nothing else."""
    names = {*OUTCOME, WRITTEN}
    inner = {"results": set(), "Annotations": set(), "videos": {"fingerprint"}}
    if (folder / WRITTEN).is_file():
        written = (folder / WRITTEN).read_text(encoding="utf-8").splitlines()
        inner["results"] = inner["Annotations"] = {PurePosixPath(v).name for v in written}
    for place, known in ((folder, names), *((folder / k, v) for k, v in inner.items())):
        for path in place.glob(".*"):
            found = _PART.fullmatch(path.name)
            if found and found[1] in known:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_manifest(
    folder: Path, done: Iterable[Mapping[str, Any]], failed: Mapping[str, str]
) -> Path:
    """Write one line a video: name, state (``done`` or ``failed``), frames, error; by name."""
    rows = [{"name": v["name"], "state": "done", "frames": v["length"]} for v in done]
    rows += [{"name": n, "state": "failed", "error": reason} for n, reason in failed.items()]
    rows.sort(key=lambda row: row["name"])
    file = folder / MANIFEST
    write_text_atomically(file, "".join(f"{json.dumps(row)}\n" for row in rows))
    return file
