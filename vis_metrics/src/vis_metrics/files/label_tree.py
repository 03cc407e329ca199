"""``<video>/<frame>.png`` in a folder or a zip: which videos and frames there are, and finding it.

Frames go by their stems, so that ``00000.PNG`` and ``00000.tif`` are the frame ``00000``; their
order is the natural one (2 before 10). Hidden files and folders are left out.
"""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy as np

from ..errors import InputError, ResultFileError
from .label_files import LabelFolder, decode_label_map, read_label_map
from .names import LABEL_SUFFIXES, is_hidden, natural_order

logger = logging.getLogger(__name__)

INNER = "masks"  # may lie between a video's folder and its label maps, as `vis run` writes them
DEPTH = 3  # levels below a folder in which the videos are looked for


class LabelTree:
    """The label maps of many videos.

    Args:
        place: folder of video folders, or a zip of them.
        error: exception class for whatever is wrong.
        strict: a zip must hold the video folders at its root, as the servers want it.
        inner: or all of them in this folder.
    """

    def __init__(
        self, place: Path, *, error: type[InputError], strict: bool = False, inner: str = ""
    ) -> None:
        self.place = Path(place)
        self.error = error
        self.archive: zipfile.ZipFile | None = None
        self._files: dict[str, dict[str, str]] = {}
        if self.place.is_dir():
            return
        if not self.place.exists():
            raise error(f"{self.place}: no such folder")
        try:
            self.archive = zipfile.ZipFile(self.place)
        except (OSError, zipfile.BadZipFile):
            raise error(f"{self.place}: neither a folder nor a zip of label maps") from None
        self._list_archive(strict, inner)

    def _list_archive(self, strict: bool, inner: str) -> None:
        names = [name for name in self.archive.namelist() if is_label_file(name.split("/")[-1])]
        inside = bool(inner) and all(name.startswith(f"{inner}/") for name in names)
        for name in names:
            parts = name.split("/")[inside:]
            if any(is_hidden(part) for part in parts):
                continue
            if len(parts) < 2 or (strict and len(parts) != 2):
                raise self.error(
                    f"{self.place}, {name}: the zip must hold the video folders directly at its "
                    "root; zip their contents, not the folder around them"
                )
            video = parts[-3] if parts[-2] == INNER and len(parts) > 2 else parts[-2]
            self._add(self._files.setdefault(video, {}), parts[-1], name, self.place)

    def _add(self, files: dict[str, str], name: str, path: str, folder: Path) -> None:
        stem = os.path.splitext(name)[0]
        if stem in files:
            raise self.error(
                f"{folder}: both {Path(files[stem]).name} and {name} are label maps of frame "
                f"{stem}; keep one"
            )
        files[stem] = path

    def videos(self) -> list[str]:
        """Return the names of the videos that have a label map."""
        if self.archive is not None:
            return natural_order(self._files)
        with os.scandir(self.place) as entries:
            names = [e.name for e in entries if not is_hidden(e.name) and e.is_dir()]
        return natural_order(name for name in names if self._folder(name) is not None)

    def _folder(self, video: str) -> Path | None:
        """The folder that holds a video's label maps."""
        for folder in (self.place / video, self.place / video / INNER):
            if holds_label_files(folder):
                return folder
        return None

    def frames(self, video: str) -> dict[str, str]:
        """Return a video's frames in natural order, ``{stem: file}``; {} if there is no such video.

        Raises ``error`` if two files are the same frame.
        """
        if video not in self._files and self.archive is None:
            folder = self._folder(video)
            if folder is None:
                return {}
            files: dict[str, str] = {}
            for name in sorted(os.listdir(folder)):
                if is_label_file(name):
                    self._add(files, name, name, folder)
            self._files[video] = files
        files = self._files.get(video, {})
        return {stem: files[stem] for stem in natural_order(files)}

    def require_frames(self, video: str) -> dict[str, str]:
        """Return a video's frames; raises ``error`` if it has none."""
        if self.archive is None and not (self.place / video).is_dir():
            raise self.error(
                f"{self.place / video}: no such folder; every video needs one, named after it"
            )
        frames = self.frames(video)
        if not frames:
            raise self.error(f"{self.place / video}: holds no PNG; every frame needs one")
        return frames

    def where(self, video: str, stem: str) -> str:
        """Name a frame's file for a message."""
        name = self.frames(video).get(stem)
        if name is None or self.archive is not None:
            return str(self.place / video / Path(name or f"{stem}.png").name)
        return str(self._folder(video) / name)

    def read(self, video: str, stem: str) -> np.ndarray:
        """Return a label map as uint8 (H, W)."""
        name = self.where(video, stem)
        if self.archive is None:
            return read_label_map(name, error=self.error)
        content = self.archive.read(self._files[video][stem])
        return decode_label_map(content, name, error=self.error)

    def maps(self, video: str, stems: list[str]) -> LabelFolder | LabelZip:
        """Return a video's label maps of these frames, to be read later, elsewhere."""
        frames = self.frames(video)
        if self.archive is not None:
            return LabelZip(self.place, [self._files[video][s] for s in stems], self.error)
        return LabelFolder(self._folder(video), [frames[stem] for stem in stems], self.error)


class LabelZip:
    """Label maps of one video in a zip; ``names`` are their members, in order."""

    def __init__(self, place: Path, names: list[str], error: type[InputError]) -> None:
        self.place, self.names, self.error = place, names, error
        self._archive: zipfile.ZipFile | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_archive": None}

    def read(self, t: int) -> np.ndarray:
        if self._archive is None:
            self._archive = zipfile.ZipFile(self.place)
        content = self._archive.read(self.names[t])
        return decode_label_map(content, self.where(t), error=self.error)

    def where(self, t: int) -> str:
        return str(self.place / self.names[t])


def is_label_file(name: str) -> bool:
    """True for the name of a label map."""
    return name.lower().endswith(LABEL_SUFFIXES) and not is_hidden(name)


def holds_label_files(folder: Path) -> bool:
    """True if a folder has a label map directly in it."""
    try:
        with os.scandir(folder) as entries:
            return any(is_label_file(entry.name) for entry in entries)
    except OSError:
        return False


def find_results(place: Path, known: Collection[str]) -> tuple[LabelTree, list[str] | None]:
    """Return the tree of results at, above or below ``place``, and the one video that it names.

    ``known`` are the ground truth's videos. A folder above the videos' folders (the output of an
    evaluation, say) is entered where there is one choice; the folder of one video stands for this
    video alone. Without any known video the place itself is returned.
    Raises ResultFileError if several folders below would do.
    """
    place, known = Path(place), set(known)
    here = LabelTree(place, error=ResultFileError)
    if here.archive is not None or known.intersection(here.videos()):
        return here, None
    video = place.absolute().name
    if video in known and holds_label_files(place):
        return LabelTree(place.absolute().parent, error=ResultFileError), [video]
    level = [place]
    for _ in range(DEPTH):
        level = [child for folder in level for child in _sub_folders(folder)]
        found = [folder for folder in level if _holds_one_of(folder, known)]
        if len(found) > 1:
            raise ResultFileError(
                f"{place}: results lie in {len(found)} folders below, {found[0]}, {found[1]}"
                f"{', ...' if len(found) > 2 else ''}; name one of them"
            )
        if found:
            logger.warning("%s: taking the results in %s", place, found[0])
            return LabelTree(found[0], error=ResultFileError), None
    return here, None


def _sub_folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(e.path) for e in entries if not is_hidden(e.name) and e.is_dir())
    except OSError:
        return []


def _holds_one_of(folder: Path, known: set[str]) -> bool:
    tree = LabelTree(folder, error=ResultFileError)
    names = [child.name for child in _sub_folders(folder) if child.name in known]
    return any(tree.frames(name) for name in names)
