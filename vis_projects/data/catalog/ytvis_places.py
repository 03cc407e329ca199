"""Where YouTube-VIS 2019, 2021, 2022 and OVIS may lie below the root of all data sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...structures import InputError
from ..formats.video_record import Video
from ..formats.ytvis import load_ytvis_json
from .registration import dataset_root

_SPLITS = {"train": "train", "val": "valid", "test": "test"}
_SHORT = {"valid": "val"}


def ytvis_places(name: str) -> list[tuple[Path, Path]]:
    """Return the places (json, images) where a set of the benchmark may lie, best first.

    Args:
        name: ``ytvis_{2019,2021}_{train,val,test}``, ``ytvis_2022_val``, ``ovis_{train,val,test}``,
            ``youtubevis_{train,valid,test}``, or ``..._local_{train,val}`` for the splits that
            ``prepare.py split`` writes.
    """
    root = dataset_root()
    base, split = name.rsplit("_", 1)
    if base == "youtubevis":
        return [*_old_places(root, split), *ytvis_places(f"ytvis_2019_{_SHORT.get(split, split)}")]
    if base.endswith("_local"):
        folder = root / base.removesuffix("_local")
        images = [folder / "train" / "JPEGImages", folder / "train"]
        return [(folder / f"local_{split}.json", i) for i in images]
    folder, long = root / base, _SPLITS[split]
    if base == "ovis":
        return [
            (folder / "annotations" / f"annotations_{long}.json", folder / long),
            (folder / f"annotations_{long}.json", folder / long),
            (folder / "annotations" / f"annotations_{long}.json", folder / long / "JPEGImages"),
        ]
    short = "val" if split == "val" else long
    images = [folder / s / "JPEGImages" for s in dict.fromkeys((long, short))]
    places = [(folder / f"{long}.json", images[0])] if base != "ytvis_2022" else []
    places += [(folder / s / "instances.json", i) for s, i in zip((long, short), images)]
    places += [(folder / "annotations" / f"instances_{short}_sub.json", images[-1])]
    places += [(folder / "instances.json", images[-1])] if base == "ytvis_2022" else []
    return places + _old_places(root, long) if base == "ytvis_2019" else places


def _old_places(root: Path, split: str) -> list[tuple[Path, Path]]:
    """Return the places of CrossVIS' authors: their code says ``valid``, their README ``val``."""
    folder = root / "youtubevis"
    file = folder / "annotations" / f"{split}.json"
    return [(file, folder / name) for name in dict.fromkeys((split, _SHORT.get(split, split)))]


def load_known_ytvis(name: str) -> tuple[list[Video], dict[str, Any]]:
    """Load a benchmark from the first place where its json is.

    Raises:
        InputError: it is nowhere (all places are named), or it is broken.
    """
    places = ytvis_places(name)
    for file, images in places:
        if file.is_file() and (images.is_dir() or len(places) == 1):
            return load_ytvis_json(file, images)
    for file, images in places:
        if file.is_file():
            return load_ytvis_json(file, images)
    raise InputError(not_found(name, [file for file, _ in places]))


def not_found(name: str, tried: Sequence[Path]) -> str:
    """Return the message for a data set that is in none of its places."""
    paths = ", ".join(dict.fromkeys(str(p) for p in tried))
    return (
        f"data set {name}: found none of {paths}; set DETECTRON2_DATASETS to the folder that holds "
        "the data sets (layouts: datasets/README.md)"
    )
