"""Names of the classes of data sets, and of what a model tells apart."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ...structures import InputError
from .class_maps import load_categories
from .registration import forget_other_root, get_metadata, register_by_pattern

_AGNOSTIC = ("uvos", "vos")  # tasks whose objects have no class
_MAPPED_TO = ("ytvis_2019", "ytvis_2021", "ovis")  # benchmarks that class maps lead to


def known_class_names(name: str) -> list[str] | None:
    """Return a set's class names without reading any of its files; None if that is not possible."""
    register_by_pattern(name)
    forget_other_root(name)
    names = MetadataCatalog.get(name).get("thing_classes", None)
    return list(names) if names else None


def is_class_agnostic(name: str) -> bool:
    """Whether the objects of a set have no class (UVOS and VOS sets)."""
    register_by_pattern(name)
    return MetadataCatalog.get(name).get("task", None) in _AGNOSTIC


def class_names_of_set(name: str, class_map: str = "") -> list[str] | None:
    """Return the names of the classes that a set's objects have; None if they have none.

    Args:
        class_map: key of the map that turns its classes into another set's, "" for none.

    Raises:
        InputError: neither is the set known nor are its files at hand.
    """
    target = class_map.rpartition("/")[2]
    if class_map and target in _MAPPED_TO:
        return [c["name"] for c in load_categories(target)]
    if class_map or is_class_agnostic(name):
        return None
    return known_class_names(name) or list(get_metadata(name).thing_classes)


def training_class_names(cfg: CfgNode) -> list[str] | None:
    """Return the classes that a config trains on; None without classes.

    Sets without classes make a training without classes. Of several sets the one with most counts.

    Raises:
        InputError: the files of a set are needed and not at hand.
    """
    if cfg.DATASETS.CLASS_AGNOSTIC or not cfg.DATASETS.TRAIN:
        return None
    maps = list(cfg.DATASETS.CLASS_MAPS) or [""] * len(cfg.DATASETS.TRAIN)
    found = [class_names_of_set(n, m) for n, m in zip(cfg.DATASETS.TRAIN, maps)]
    if any(names is None for names in found):
        return None
    return max(found, key=len, default=None)


def class_ids_of(cfg: CfgNode) -> list[int] | None:
    """Return the training set's own ids of the contiguous classes, None if not known."""
    for name in cfg.DATASETS.TRAIN:
        forget_other_root(name)
        ids = MetadataCatalog.get(name).get("contiguous_id_to_dataset_id", None)
        if ids:
            return [ids[k] for k in sorted(ids)]
    return None


def class_names_for(cfg: CfgNode, model: Any = None) -> list[str] | None:
    """Return the names of what a model gives as ``pred_classes``; None if nobody knows them.

    From the checkpoint that the model was loaded from, else from the fixed metadata of the
    config's data sets, else from the user's own data set. Nothing is read for a benchmark.

    Args:
        model: a model whose ``class_names`` say what its checkpoint told.
    """
    names = getattr(model, "class_names", None)
    if names:
        return list(names)
    sets = [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]
    for name in sets:
        known = known_class_names(name)
        if known and known != ["object"]:
            return known
    for name in sets:
        if ":" in name:
            try:
                return list(get_metadata(name).thing_classes)
            except InputError:
                continue
    return known_class_names(sets[0]) if sets else None
