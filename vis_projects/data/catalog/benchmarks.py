"""Registers the data sets whose folders are fixed by convention (datasets/README.md lists them)."""

from __future__ import annotations

from functools import partial
from typing import Any

from ...structures import InputError
from ..formats.davis import SUBSETS as DAVIS_SUBSETS
from ..formats.davis import annotation_folder, load_davis
from ..formats.label_folders import load_label_folders
from ..formats.stills import load_coco_stills
from ..formats.video_record import Video
from ..formats.youtube_vos import load_youtube_vos
from .class_maps import load_categories
from .registration import dataset_root, register_dataset, register_root_loader
from .ytvis_places import load_known_ytvis, not_found

_DAVIS_TASKS = {
    2016: ("davis_2016", "vos"),
    2017: ("davis_semi", "vos"),
    2019: ("davis_unsup", "uvos"),
}
_FOLDERS = {"train": "train", "val": "valid", "test": "test"}

# name: (json, images), below the root of all data sets
STILL_PLACES = {
    "coco_2017_train": ("coco/annotations/instances_train2017.json", "coco/train2017"),
    "coco_2017_val": ("coco/annotations/instances_val2017.json", "coco/val2017"),
    "voc_stills_train": ("voc/annotations/instances_train.json", "voc/JPEGImages"),
    "voc_stills_trainval": ("voc/annotations/instances_trainval.json", "voc/JPEGImages"),
    "voc_stills_val": ("voc/annotations/instances_val.json", "voc/JPEGImages"),
    "openimages_stills_train": ("openimages/annotations/instances_train.json", "openimages/train"),
    "openimages_stills_val": (
        "openimages/annotations/instances_validation.json",
        "openimages/validation",
    ),
}


def load_davis_task(year: int, subset: str) -> tuple[list[Video], dict[str, Any]]:
    """Load a DAVIS task below the root of all data sets."""
    root = dataset_root() / "DAVIS"
    metadata: dict[str, Any] = {"thing_classes": ["object"]}
    if subset in ("train", "val"):
        metadata["gt_root"] = str(root / annotation_folder(year) / "480p")
    return load_davis(root, year=year, subset=subset), metadata


def load_youtube_vos_task(
    year: int, split: str, *, all_frames: bool = False, local: bool = False
) -> tuple[list[Video], dict[str, Any]]:
    """Load a YouTube-VOS split; ``local``: a part of train that ``prepare.py split`` has listed."""
    root = dataset_root() / f"youtube_vos_{year}"
    sequences = root / "train" / f"local_{split}.txt" if local else None
    folder = "train" if local else _FOLDERS[split]
    return load_youtube_vos(root, folder, all_frames=all_frames, sequences=sequences)


def load_still_images(name: str) -> tuple[list[Video], dict[str, Any]]:
    """Load COCO, or converted Pascal VOC or OpenImages stills.

    Raises:
        InputError: the json is missing (the command that makes it is named) or broken.
    """
    json_file, images = (dataset_root() / part for part in STILL_PLACES[name])
    if not json_file.is_file():
        hint = ""
        if not name.startswith("coco"):
            split = json_file.stem.removeprefix("instances_")
            made = f"convert {name.split('_')[0]} --split {split}"
            hint = f" (it is made by: python datasets/prepare.py {made})"
        raise InputError(not_found(name, [json_file]) + hint)
    return load_coco_stills(json_file, images)


def register_benchmarks() -> None:
    """Register every known benchmark; names that exist already are skipped."""
    for year, subset in DAVIS_SUBSETS:
        kind, task = _DAVIS_TASKS[year]
        loader = partial(load_davis_task, year, subset)
        register_dataset(f"davis_{year}_{subset}", loader, evaluator_type=kind, task=task)
    for base in ("ytvis_2019", "ytvis_2021", "ytvis_2022", "ovis"):
        splits = ("val",) if base == "ytvis_2022" else ("train", "val", "test")
        local = ("local_train", "local_val", "local_fold0", "local_fold1")
        local = () if base == "ytvis_2022" else local
        for split in (*splits, *local):
            _register_ytvis(f"{base}_{split}", "ytvis_2021" if base == "ytvis_2022" else base)
    for split in ("train", "valid", "test"):  # the authors' names of YouTube-VIS 2019
        _register_ytvis(f"youtubevis_{split}", "ytvis_2019")
    for year in (2018, 2019):
        base = f"youtube_vos_{year}"
        for split in ("train", "val", "test"):
            for all_frames in (False, True):
                loader = partial(load_youtube_vos_task, year, split, all_frames=all_frames)
                name = f"{base}_{split}" + ("_all_frames" if all_frames else "")
                register_dataset(name, loader, evaluator_type="ytvos", task="vos")
        for split in ("train", "val"):
            for all_frames in (False, True):
                options = {"local": True, "all_frames": all_frames}
                loader = partial(load_youtube_vos_task, year, split, **options)
                name = f"{base}_local_{split}" + ("_all_frames" if all_frames else "")
                register_dataset(name, loader, evaluator_type="ytvos", task="vos")
    for split in ("train", "val"):
        loader = partial(_load_mose, _FOLDERS[split])
        register_dataset(f"mose_{split}", loader, evaluator_type="davis_semi", task="vos")
    for name in STILL_PLACES:
        loader = partial(load_still_images, name)
        register_root_loader(name, loader)
        register_dataset(name, loader, evaluator_type="coco", task="stills")


def _register_ytvis(name: str, benchmark: str) -> None:
    register_dataset(
        name,
        partial(load_known_ytvis, name),
        evaluator_type="ytvis",
        task="vis",
        categories=load_categories(benchmark),
    )


def _load_mose(folder: str) -> tuple[list[Video], dict[str, Any]]:
    return load_label_folders(dataset_root() / "MOSE" / folder, first_masks_only=True)
