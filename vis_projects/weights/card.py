"""What a checkpoint says of itself: system, config, classes, data sets, version.

The card is a dict of plain values under the key ``vis_projects`` of a ``.pth`` file, or JSON in
the metadata of a ``.safetensors`` file:

``format`` 1; ``version`` of the package; ``system``: MODEL.META_ARCHITECTURE; ``config``: YAML;
``class_names``: list or None; ``class_ids``: their ids in the data set's own files;
``datasets``: the training sets.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY

from ..config import get_cfg, with_options
from ..structures import InputError
from .reading import glance, read_weights

logger = logging.getLogger(__name__)
FORMAT = 1


def make_card(
    cfg: CfgNode,
    *,
    class_names: Sequence[str] | None = None,
    class_ids: Sequence[int | str] | None = None,
) -> dict[str, Any]:
    """Return the card of a checkpoint that is trained with ``cfg``."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = get_cfg().OUTPUT_DIR  # where it was made is nobody's business
    package = sys.modules[__name__.partition(".")[0]]
    return {
        "format": FORMAT,
        "version": package.__version__,
        "system": cfg.MODEL.META_ARCHITECTURE,
        "package": _package_of(cfg.MODEL.META_ARCHITECTURE),
        "config": cfg.dump(),
        "class_names": None if class_names is None else [str(n) for n in class_names],
        "class_ids": None if class_ids is None else list(class_ids),
        "datasets": [str(n) for n in cfg.DATASETS.TRAIN],
    }


def _package_of(system: str) -> str:
    """The package of somebody else that registers a system, "" for those that come along."""
    if system not in META_ARCH_REGISTRY:
        return ""
    package = META_ARCH_REGISTRY.get(system).__module__.partition(".")[0]
    return "" if package in ("vis_projects", "detectron2") else package


def is_weights(path: Any) -> bool:
    """Whether a name is that of weights rather than of a config file."""
    text = str(path)
    ends = (".pth", ".pkl", ".pt", ".safetensors", ".pyth", ".tar")
    return text.startswith("zoo://") or text.split("?")[0].endswith(ends)


def class_names_of(card: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the class names on a card, None if it has none."""
    names = card.get("class_names")
    return tuple(map(str, names)) if isinstance(names, Sequence) and names else None


def card_of(path: str) -> dict[str, Any]:
    """Return what a weights file says of itself, {} for others' files.

    Raises:
        InputError: the file cannot be read.
    """
    return read_weights(path).card


def remember_class_names(cfg: CfgNode) -> None:
    """Let the metadata of a config's first test set say what its weights know of the classes.

    Detectron2's ``DefaultPredictor`` and ``Visualizer`` take the names from there. Only where
    nothing says them yet and ``MODEL.WEIGHTS`` is a local checkpoint of ours; no tensor is read.
    """
    path = cfg.MODEL.WEIGHTS
    if not cfg.DATASETS.TEST or not os.path.isfile(path):
        return
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    if metadata.get("thing_classes", None) is None:
        names = class_names_of(glance(path))
        if names:
            metadata.thing_classes = list(names)


def config_of_checkpoint(path: str, opts: Sequence[str] = ()) -> CfgNode:
    """Return the config that a checkpoint of ours was made with, its ``MODEL.WEIGHTS`` set to it.

    ``demo.py --weights W`` without ``--config-file`` calls this. Keys that this version does not
    have are left out with a warning; the device is CUDA where there is one.

    Args:
        path: file, URL or ``zoo://NAME``.
        opts: KEY VALUE overrides, as on the command line.

    Raises:
        InputError: the file cannot be read or has no config in it, or an override is wrong.
    """
    card = card_of(path)
    text = card.get("config")
    if not isinstance(text, str):
        raise InputError(
            f"weights {path}: this file does not say which config it belongs to: give "
            "--config-file too"
        )
    system = card.get("system")
    if system is not None and system not in META_ARCH_REGISTRY:
        package = card.get("package") or "PACKAGE"
        raise InputError(f"weights {path}: its system {system} is not here: add --import {package}")
    cfg = get_cfg()
    try:
        stored = CfgNode(yaml.safe_load(text))
    except (yaml.YAMLError, AttributeError, TypeError) as error:
        raise InputError(f"weights {path}: its config is damaged ({error})") from None
    dropped = _merge_known(cfg, stored)
    if dropped:
        logger.warning("weights %s: options unknown to this version: %s", path, ", ".join(dropped))
    cfg.MODEL.WEIGHTS = path
    cfg.MODEL.DEVICE = "auto"
    remember_class_names(cfg)
    return with_options(cfg, opts)


def _merge_known(cfg: CfgNode, stored: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Take over the values whose keys exist; return the names of the others."""
    dropped = []
    for key, value in stored.items():
        if key not in cfg:
            dropped.append(prefix + key)
        elif isinstance(cfg[key], CfgNode):
            if isinstance(value, Mapping):
                dropped += _merge_known(cfg[key], value, f"{prefix}{key}.")
            else:
                dropped.append(prefix + key)
        else:
            try:
                cfg.merge_from_other_cfg(CfgNode({key: value}))
            except (ValueError, KeyError, TypeError, AssertionError):
                dropped.append(prefix + key)
    return dropped
