"""Class maps between data sets, and the class lists of the benchmarks.

``class_maps.json`` is keyed by ``<who>/<source>/<target>``; its maps go from the source's own
category ids to the target's own. An object whose class is not mapped is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...structures import InputError
from ..formats.label_maps import LabelMapAnnotations
from ..formats.video_record import Video

_FOLDER = Path(__file__).parent


@lru_cache(maxsize=1)
def _file() -> dict[str, Any]:
    return json.loads((_FOLDER / "class_maps.json").read_text())


@lru_cache(maxsize=1)
def _categories() -> dict[str, list[dict[str, Any]]]:
    return json.loads((_FOLDER / "categories.json").read_text())


def class_map_names() -> list[str]:
    """Return the keys of all class maps."""
    return sorted(_file()["maps"])


def load_class_map(key: str) -> dict[Any, int]:
    """Return a map from the source's category ids to the target's (1-based) category ids.

    Raises:
        InputError: no such map.
    """
    maps = _file()["maps"]
    if key not in maps:
        raise InputError(f"class map {key!r} is unknown; there are {', '.join(sorted(maps))}")
    return {int(k) if k.lstrip("-").isdigit() else k: v for k, v in maps[key]["map"].items()}


def load_categories(name: str) -> list[dict[str, Any]]:
    """Return the categories ``[{"id", "name"}]`` of a benchmark: ytvis_2019, ytvis_2021 or ovis.

    Raises:
        InputError: no such list.
    """
    if name not in _categories():
        raise InputError(f"category list {name!r} is unknown; there are {', '.join(_categories())}")
    return [dict(c) for c in _categories()[name]]


def apply_class_map(videos: Sequence[Video], key: str, metadata: Any) -> list[Video]:
    """Return videos with the target's contiguous categories; unmapped objects are left out.

    Args:
        metadata: of the source set, for its own category ids.

    Raises:
        InputError: no such map, or the set's class names are not those that the map was made for.
    """
    mapping = load_class_map(key)
    names = {k: _plain(n) for k, n in _file()["maps"][key]["source_names"].items()}
    own = {
        d: _plain(metadata.thing_classes[c])
        for d, c in metadata.thing_dataset_id_to_contiguous_id.items()
    }
    if all(
        isinstance(k, str) for k in mapping
    ):  # OpenImages: by name, its ids are numbered on conversion
        by_name = {names[k]: target for k, target in mapping.items()}
        mapping = {d: by_name[n] for d, n in own.items() if n in by_name}
    for dataset_id, found in own.items():
        expected = names.get(str(dataset_id), found)
        if expected != found:
            raise InputError(
                f"class map {key}: category {dataset_id} should be {expected!r} but the data set "
                "says "
                f"{found!r}; the map belongs to another data set"
            )
    contiguous = metadata.thing_dataset_id_to_contiguous_id
    table = {contiguous[d]: target - 1 for d, target in mapping.items() if d in contiguous}
    return [remap_video(v, table) for v in videos]


def _plain(name: str) -> str:
    return name.lower().replace(" ", "").replace("_", "").replace("-", "")


def class_agnostic(videos: Sequence[Video]) -> list[Video]:
    """Return videos whose objects all have category 0."""
    return [remap_video(v, _Zero()) for v in videos]


class _Zero(dict):
    """Maps every category to 0."""

    def __contains__(self, key: object) -> bool:
        return True

    def __getitem__(self, key: int) -> int:
        return 0


def remap_video(video: Video, table: Mapping[int, int]) -> Video:
    """Return a copy of a video with other categories; objects without one are left out.

    A crowd is to be ignored whatever its category.
    """
    out = dict(video)
    kept = [o for o in video.get("objects") or () if o["category_id"] in table]
    out["objects"] = [{**o, "category_id": table[o["category_id"]]} for o in kept]
    annotations = video.get("annotations")
    if isinstance(annotations, LabelMapAnnotations):
        out["annotations"] = annotations.remapped(table)
    elif annotations is not None:
        unmapped = [
            [
                a["segmentation"]
                for a in objects
                if a.get("iscrowd", 0) and a["category_id"] not in table
            ]
            for objects in annotations
        ]
        if any(unmapped):
            known = video.get("ignored") or [[]] * len(unmapped)
            out["ignored"] = [[*a, *b] for a, b in zip(known, unmapped)]
        out["annotations"] = [
            [
                {**a, "category_id": table[a["category_id"]]}
                for a in objects
                if a["category_id"] in table
            ]
            for objects in annotations
        ]
    return out
