"""The catalogue of known data sets: names, loaders and metadata.

A data set is registered by name with a loader that runs when the set is first used, so the folder
in ``DETECTRON2_DATASETS`` is looked up then and not at import. Names that another project
registered before are left alone.

A loader returns ``(videos, metadata)``; what a video is, ``formats/video_record.py`` says. A name
with a colon carries options or places: whoever knows such names registers their prefix
(``register_name_pattern``), so that the catalogue imports no data set.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from ...structures import InputError
from ..formats.stills import stills_as_videos
from ..formats.video_record import Video

Loader = Callable[[], tuple[list[Video], dict[str, Any]]]

_ABSENT = object()
_LOADERS: dict[str, Loader] = {}
_LOADED: dict[str, tuple[str, list[Video]]] = {}  # name -> (root, videos)
_BEFORE: dict[str, dict[str, Any]] = {}  # name -> what the files changed in the metadata, as it was
_FROM_ROOT: dict[str, Loader] = {}  # sets that Detectron2 registers itself, but from today's root
_PATTERNS: dict[str, Callable[[str], Any]] = {}  # prefix of a name -> registers such a name


def dataset_root() -> Path:
    """Return the folder of all data sets: $DETECTRON2_DATASETS, by default ``datasets``."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()


def register_dataset(
    name: str,
    loader: Loader,
    *,
    evaluator_type: str,
    task: str,
    categories: Sequence[dict[str, Any]] = (),
) -> bool:
    """Register a data set; returns False, and does nothing, if the name is taken already.

    Args:
        loader: returns the videos and the metadata that depend on the files.
        evaluator_type: ``ytvis``, ``davis_2016``, ``davis_semi``, ``davis_unsup``, ``ytvos`` or
        ``coco``.
        task: ``vis``, ``uvos``, ``vos`` or ``stills``.
        categories: ``{"id", "name"}`` of the benchmark's classes, known without its files.
    """
    if name in DatasetCatalog.list():
        return False
    _LOADERS[name] = loader
    DatasetCatalog.register(name, lambda: _catalogued(name, task))
    metadata = MetadataCatalog.get(name).set(evaluator_type=evaluator_type, task=task)
    if categories:
        ordered = sorted(categories, key=lambda c: c["id"])
        id_map = {c["id"]: k for k, c in enumerate(ordered)}
        metadata.set(
            thing_classes=[c["name"] for c in ordered],
            thing_dataset_id_to_contiguous_id=id_map,
            contiguous_id_to_dataset_id={k: i for i, k in id_map.items()},
        )
    return True


def forget_other_root(name: str) -> None:
    """Forget what a set's files told if they lay below another root than today's.

    The metadata are again what they were before the files were read, whoever had set them.
    """
    if name in _LOADED and _LOADED[name][0] != str(dataset_root()):
        del _LOADED[name]
        _set_anew(MetadataCatalog.get(name), _BEFORE.pop(name))


def _set_anew(metadata: Any, values: dict[str, Any]) -> None:
    """Set, replace or (``_ABSENT``) remove attributes, which metadata by themselves keep."""
    for key, value in values.items():
        if hasattr(metadata, key):
            delattr(metadata, key)
        if value is not _ABSENT:
            setattr(metadata, key, value)


def _catalogued(name: str, task: str) -> list[dict[str, Any]]:
    """Return what ``DatasetCatalog.get`` hands out: stills in Detectron2's own format."""
    videos = load_videos(name)
    return [v["still"] for v in videos] if task == "stills" else videos


def unregister_dataset(name: str) -> None:
    """Forget a data set that ``register_dataset`` added."""
    _LOADERS.pop(name, None)
    _LOADED.pop(name, None)
    _BEFORE.pop(name, None)
    if name in DatasetCatalog.list():
        DatasetCatalog.pop(name)
    MetadataCatalog.pop(name, None)


def load_videos(name: str) -> list[Video]:
    """Return the videos of a registered data set and complete its metadata; cached per folder.

    The dicts are shared: treat them as read-only.

    Raises:
        InputError: the name is unknown, or the files are missing or broken.
    """
    forget_other_root(name)
    if name not in _LOADED:
        register_by_pattern(name)
        before = MetadataCatalog.get(name).as_dict()
        videos, found = _LOADERS[name]() if name in _LOADERS else _foreign(name)
        _complete_metadata(name, videos, found)
        after = MetadataCatalog.get(name).as_dict()
        old = {key: before.get(key, _ABSENT) for key in after}
        _BEFORE[name] = {key: old[key] for key in after if old[key] is not after[key]}
        _LOADED[name] = (str(dataset_root()), videos)
    return _LOADED[name][1]


def register_name_pattern(prefix: str, register: Callable[[str], Any]) -> None:
    """Let ``register(name)`` register the sets whose name starts so and carries options or places.

    Args:
        register: calls ``register_dataset`` for the name, or raises ``InputError``.
    """
    _PATTERNS[prefix] = register


def register_root_loader(name: str, loader: Loader) -> None:
    """Load a name that Detectron2 registers itself below the root that holds when it is loaded."""
    _FROM_ROOT[name] = loader


def register_by_pattern(name: str) -> None:
    """Register a set whose name carries options or places, if it is not known yet."""
    if name in _LOADERS or ":" not in name:
        return
    for prefix, register in _PATTERNS.items():
        if name.startswith(prefix):
            register(name)
            return


def get_metadata(name: str) -> Any:
    """Return a data set's metadata after loading the set, so that all of it is there."""
    load_videos(name)
    return MetadataCatalog.get(name)


def num_identities(names: Sequence[str]) -> int:
    """Return how many objects the named training sets have together."""
    return sum(get_metadata(name).num_identities for name in names)


def identity_offsets(names: Sequence[str]) -> list[int]:
    """Return where each set's identities start when the sets are trained on together."""
    offsets, total = [], 0
    for name in names:
        offsets.append(total)
        total += get_metadata(name).num_identities
    return offsets


def _foreign(name: str) -> tuple[list[Video], dict[str, Any]]:
    """Load a set that somebody else registered: stills in Detectron2's format, or videos."""
    if name in _FROM_ROOT:
        return _FROM_ROOT[name]()
    if name not in DatasetCatalog.list():
        close = get_close_matches(name, DatasetCatalog.list(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see datasets/README.md"
        raise InputError(f"data set {name!r} is not registered; {hint}")
    try:
        records = DatasetCatalog.get(name)
    except FileNotFoundError as error:
        raise InputError(
            f"data set {name}: {error.filename} is missing; set DETECTRON2_DATASETS to the folder "
            "that holds the data sets"
        ) from None
    if records and "file_name" in records[0]:
        records = stills_as_videos(records)
    return records, {}


def _complete_metadata(name: str, videos: list[Video], found: dict[str, Any]) -> None:
    metadata = MetadataCatalog.get(name)
    # Of our own sets the files know better than what is known without them.
    known = {} if name in _LOADERS else metadata.as_dict()
    values = dict(found)
    classes = values.get("thing_classes") or known.get("thing_classes") or ["object"]
    id_map = values.get("thing_dataset_id_to_contiguous_id")
    id_map = id_map or known.get("thing_dataset_id_to_contiguous_id")
    id_map = id_map or {i + 1: i for i in range(len(classes))}
    values["thing_classes"] = list(classes)
    values["thing_dataset_id_to_contiguous_id"] = dict(id_map)
    values["contiguous_id_to_dataset_id"] = {v: k for k, v in id_map.items()}
    values["sequences"] = [v["name"] for v in videos]
    values["num_identities"] = number_identities(videos)
    _set_anew(metadata, values)


def number_identities(videos: Sequence[Video]) -> int:
    """Give every object without an ``identity`` the next number of its set; return the count."""
    count = 0
    for video in videos:
        for item in video.get("objects") or ():
            item.setdefault("identity", count)
            count += 1
    return count
