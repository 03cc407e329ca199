"""One check that data and model have the same number of classes, and counting them: 0.

A META_ARCHITECTURE with classes says in ``classes_key`` which option holds their number, and in
``num_classes`` how many a built model has.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY

from ..structures import InputError
from .catalog.class_names import class_names_of_set, known_class_names, training_class_names
from .catalog.registration import num_identities

logger = logging.getLogger(__name__)


def classes_key(cfg: CfgNode) -> str:
    """Return the option with the number of classes of a config's system, "" without classes."""
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in META_ARCH_REGISTRY:
        return ""
    return getattr(META_ARCH_REGISTRY.get(name), "classes_key", "")


def get_option(cfg: CfgNode, key: str) -> Any:
    """Return ``cfg.A.B`` by its name ``"A.B"``."""
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def with_option(cfg: CfgNode, key: str, value: Any) -> CfgNode:
    """Return a copy of a config with another value."""
    frozen = cfg.is_frozen()
    cfg = cfg.clone()
    cfg.defrost()
    *path, last = key.split(".")
    node = cfg
    for part in path:
        node = node[part]
    node[last] = value
    if frozen:
        cfg.freeze()
    return cfg


def with_counted_classes(cfg: CfgNode, key: str = "") -> CfgNode:
    """Return the config with a number of classes of 0 replaced by that of the data.

    The data are the training sets, else the first test set; class-agnostic data (UVOS) count as
    one class, or none for SRNet, which has no classifier then.

    Raises:
        InputError: no data set is named, or its files are needed and not at hand.
    """
    for name in cfg.DATASETS.TEST:
        known_class_names(name)  # from now on its metadata say them (DefaultPredictor's)
    key = key or classes_key(cfg)
    if not key or get_option(cfg, key) != 0:
        return cfg
    count = count_classes(cfg, key)
    return with_option(cfg, key, count) if count else cfg


def count_classes(cfg: CfgNode, key: str) -> int:
    """Return the number of classes of a config's data; 0 for data without classes."""
    without = 0 if key == "MODEL.SRNET.NUM_CLASSES" else 1
    if not cfg.DATASETS.TRAIN and not cfg.DATASETS.TEST:
        if not without:
            return 0
        raise InputError(f"{key} is 0, which counts the classes of the data, and no set is named: "
                         "give the number, or DATASETS.TRAIN")  # fmt: skip
    if cfg.DATASETS.CLASS_AGNOSTIC:
        return without
    try:
        names = (
            training_class_names(cfg)
            if cfg.DATASETS.TRAIN
            else class_names_of_set(cfg.DATASETS.TEST[0])
        )
    except InputError as error:
        raise InputError(
            f"{key} is 0, which counts the classes of the data: {error}; or give the number"
        ) from None
    count = without if names is None else len(names)
    logger.info("%s 0: the data have %d", key, count)
    return count


def with_counts_of_training(cfg: CfgNode) -> CfgNode:
    """Return the config of a training with every 0 that is counted from the data filled in."""
    cfg = with_counted_classes(cfg)
    system = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    for key in getattr(system, "identities_keys", ()):
        if get_option(cfg, key) == 0 and cfg.DATASETS.TRAIN:
            cfg = with_option(cfg, key, max(num_identities(cfg.DATASETS.TRAIN), 1))
    return cfg


def check_training_classes(cfg: CfgNode) -> None:
    """Compare the number of classes of a config with its training sets, before any iteration.

    Raises:
        InputError: they differ; both numbers and the option are named.
    """
    key = classes_key(cfg)
    if not key:
        return
    classes = get_option(cfg, key)
    maps = list(cfg.DATASETS.CLASS_MAPS) or [""] * len(cfg.DATASETS.TRAIN)
    agnostic = cfg.DATASETS.CLASS_AGNOSTIC
    for name, class_map in zip(cfg.DATASETS.TRAIN, maps):
        names = None if agnostic else class_names_of_set(name, class_map)
        _compare(name, names, classes, key, training=True)


def check_test_classes(names: Sequence[str], classes: int, key: str) -> None:
    """Compare a model's number of classes with the sets that it is to be scored on.

    Sets that are scored without classes are left out.

    Raises:
        InputError: they differ; both numbers and the option are named.
    """
    for name in names:
        found = class_names_of_set(name)
        kind = MetadataCatalog.get(name).get("evaluator_type", "")
        if kind in ("ytvis", "coco") and found is not None:
            _compare(name, found, classes, key, training=False)


def _compare(
    name: str, names: Sequence[str] | None, classes: int, key: str, *, training: bool
) -> None:
    if names is None:  # all objects are of class 0
        if classes not in (0, 1) and training:
            raise InputError(
                f"data set {name} has no classes, {key} is {classes}: set it to 1 (or 0)"
            )
        return
    if classes == 0 and training:
        return  # a model without classes learns from data with classes
    if len(names) != classes:
        plural = "class" if len(names) == 1 else "classes"
        raise InputError(
            f"data set {name} has {len(names)} {plural} ({_shortened(names)}), but {key} is "
            f"{classes}: set {key} to {len(names)}, or to 0 to count them"
            + ("" if training else " in training; a trained model needs data of its own classes")
        )


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
