"""Which of the known data sets lie below the root: ``vis data check`` without a name."""

from __future__ import annotations

from pathlib import Path

from detectron2.data import DatasetCatalog

from ..formats.davis import SUBSETS as DAVIS_SUBSETS
from ..formats.davis import annotation_folder
from .benchmarks import STILL_PLACES
from .registration import dataset_root
from .ytvis_places import ytvis_places


def found_datasets() -> list[str]:
    """Return the names of the benchmarks of which the list or annotation file is there."""
    return sorted(name for name in DatasetCatalog.list() if any(p.exists() for p in places(name)))


def places(name: str) -> list[Path]:
    """Return the files or folders of which one is there where a benchmark is; others have none."""
    root = dataset_root()
    if name in STILL_PLACES:
        return [root / STILL_PLACES[name][0]]
    words = name.split("_")
    if words[0] == "davis":
        year, subset = int(words[1]), "_".join(words[2:])
        if not (root / "DAVIS" / annotation_folder(year)).is_dir():
            return []
        return [root / "DAVIS" / "ImageSets" / DAVIS_SUBSETS[year, subset]]
    if words[0] in ("ytvis", "ovis"):
        return [file for file, _ in ytvis_places(name)]
    if name.startswith("youtube_vos_"):
        return _youtube_vos_places(root / "_".join(words[:3]), words[3:])
    if words[0] == "mose":
        return [root / "MOSE" / {"train": "train", "val": "valid"}[words[1]] / "JPEGImages"]
    return []


def _youtube_vos_places(folder: Path, words: list[str]) -> list[Path]:
    if words[0] == "local":
        file = folder / "train" / f"local_{words[1]}.txt"
        return [file] if words[2:] != ["all", "frames"] or _has_all_frames(folder) else []
    split = {"val": "valid"}.get(words[0], words[0])
    if words[1:] == ["all", "frames"]:
        split += "_all_frames"
    return [folder / split / "JPEGImages"]


def _has_all_frames(folder: Path) -> bool:
    return (folder / "train_all_frames" / "JPEGImages").is_dir()
