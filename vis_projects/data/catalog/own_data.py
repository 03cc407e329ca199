r"""A user's own data, by Python call or straight by a name in the config:

own_vis:instances.json:images/       a json in the YouTube-VIS format
own_stills:instances.json:images/    a json in the COCO format
own_vos:folder/                      folder/JPEGImages/<video>/, folder/Annotations/<video>/
own_uvos:folder/                     the same, objects are not given

Paths may begin with ``~`` and hold colons (``own_vis:C:\data\a.json:C:\data\images``).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from detectron2.data import MetadataCatalog

from ...structures import InputError
from ..formats.label_folders import load_label_folders
from ..formats.stills import load_coco_stills
from ..formats.ytvis import load_ytvis_json
from .registration import register_dataset, register_name_pattern


def register_ytvis_json(name: str, json_file: str | Path, image_root: str | Path) -> bool:
    """Register a json in the YouTube-VIS format; False if the name is taken."""
    loader = partial(load_ytvis_json, _path(str(json_file)), _path(str(image_root)))
    return register_dataset(name, loader, evaluator_type="ytvis", task="vis")


def register_coco_json(name: str, json_file: str | Path, image_root: str | Path) -> bool:
    """Register stills in the COCO format; False if the name is taken."""
    loader = partial(load_coco_stills, _path(str(json_file)), _path(str(image_root)))
    return register_dataset(name, loader, evaluator_type="coco", task="stills")


def register_folders(name: str, root: str | Path, *, task: str = "vos") -> bool:
    """Register folders of frames and label images; False if the name is taken.

    Args:
        task: "vos" (objects are given where they enter) or "uvos" (every object is scored, also
            one that enters late, which DAVIS leaves out).
    """
    evaluator_type = "davis_unsup" if task == "uvos" else "davis_semi"
    loader = partial(load_label_folders, root)
    new = register_dataset(name, loader, evaluator_type=evaluator_type, task=task)
    if new and task == "uvos":
        MetadataCatalog.get(name).set(protocol="unsup-all")
    return new


def register_by_name(name: str) -> bool:
    """Register a set whose name says where it is, as above.

    Raises:
        InputError: the name has another form.
    """
    kind, _, places = name.partition(":")
    if kind in ("own_vis", "own_stills") and (pair := two_places(places)) is not None:
        register = register_ytvis_json if kind == "own_vis" else register_coco_json
        return register(name, *pair)
    if kind in ("own_vos", "own_uvos") and places:
        return register_folders(name, _path(places), task=kind.removeprefix("own_"))
    raise InputError(
        f"data set {name!r}: write own_vis:JSON:IMAGES, own_stills:JSON:IMAGES, own_vos:FOLDER or "
        "own_uvos:FOLDER"
    )


def two_places(text: str) -> tuple[Path, Path] | None:
    """Split ``JSON:IMAGES`` at the colon that separates the two; paths may hold colons themselves.

    A colon separates best between a json and a folder that exist, then behind ``.json``, then the
    only one that is not a drive's (``C:``). None if there is no such colon.
    """
    parts = text.split(":")
    splits = [(":".join(parts[:k]), ":".join(parts[k:])) for k in range(1, len(parts))]
    splits = [(a, b) for a, b in splits if a and b]
    there = [(a, b) for a, b in splits if _path(a).is_file() and _path(b).is_dir()]
    json = [(a, b) for a, b in splits if a.lower().endswith(".json")]
    plain = [(a, b) for a, b in splits if not (_is_drive(a) or _is_drive(a.rpartition(":")[2]))]
    for found in (there, json, plain):
        if len(found) == 1:
            return _path(found[0][0]), _path(found[0][1])
    return None


def _is_drive(text: str) -> bool:
    return len(text) == 1 and text.isalpha()


def _path(text: str) -> Path:
    return Path(text).expanduser()


register_name_pattern("own_", register_by_name)
