"""A user's own data, by Python call or straight by a name in the config:

own_vis:instances.json:images/       a json in the YouTube-VIS format
own_stills:instances.json:images/    a json in the COCO format
own_vos:folder/                      folder/JPEGImages/<video>/, folder/Annotations/<video>/
own_uvos:folder/                     the same, objects are not given
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ...structures import InputError
from ..formats.label_folders import load_label_folders
from ..formats.stills import load_coco_stills
from ..formats.ytvis import load_ytvis_json
from .registration import register_dataset, register_name_pattern


def register_ytvis_json(name: str, json_file: str | Path, image_root: str | Path) -> bool:
    """Register a json in the YouTube-VIS format; False if the name is taken."""
    loader = partial(load_ytvis_json, json_file, image_root)
    return register_dataset(name, loader, evaluator_type="ytvis", task="vis")


def register_coco_json(name: str, json_file: str | Path, image_root: str | Path) -> bool:
    """Register stills in the COCO format; False if the name is taken."""
    loader = partial(load_coco_stills, json_file, image_root)
    return register_dataset(name, loader, evaluator_type="coco", task="stills")


def register_folders(name: str, root: str | Path, *, task: str = "vos") -> bool:
    """Register folders of frames and label images; False if the name is taken.

    Args:
        task: "vos" (the first labelled frame is given) or "uvos".
    """
    evaluator_type = "davis_unsup" if task == "uvos" else "davis_semi"
    loader = partial(load_label_folders, root)
    return register_dataset(name, loader, evaluator_type=evaluator_type, task=task)


def register_by_name(name: str) -> bool:
    """Register a set whose name says where it is, as above.

    Raises:
        InputError: the name has another form.
    """
    kind, *places = name.split(":")
    if kind in ("own_vis", "own_stills") and len(places) == 2 and all(places):
        register = register_ytvis_json if kind == "own_vis" else register_coco_json
        return register(name, *places)
    if kind in ("own_vos", "own_uvos") and len(places) == 1 and places[0]:
        return register_folders(name, places[0], task=kind.removeprefix("own_"))
    raise InputError(
        f"data set {name!r}: write own_vis:JSON:IMAGES, own_stills:JSON:IMAGES, own_vos:FOLDER or "
        "own_uvos:FOLDER"
    )


register_name_pattern("own_", register_by_name)
