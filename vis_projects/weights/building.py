"""A model with its weights, ready to be tested or to segment."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from torch import nn

from ..structures import InputError
from .card import class_names_of
from .loading import load_for_test, read_named
from .own_weights import own_weights_later
from .verdict import Verdict


def build_for_test(cfg: CfgNode, *, later: bool = False) -> tuple[nn.Module, Verdict]:
    """Build the model of a config in evaluation mode and give it ``MODEL.WEIGHTS``.

    ``later``: without any weights the model itself refuses its first image or video.

    Raises:
        InputError: weights that cannot be read or do not fit, or none for a trained part.
    """
    file = read_named(cfg.MODEL.WEIGHTS) if cfg.MODEL.WEIGHTS else None
    cfg = _with_counts_of(cfg, {} if file is None else file.card)
    with own_weights_later():
        model = build_model(cfg)
    model.eval()
    if cfg.MODEL.COMPILE:
        _compile(model, cfg.MODEL.DEVICE)
    return model, load_for_test(cfg, model, file=file, later=later)


def _compile(model: nn.Module, device: str) -> None:
    """Compile the networks that a system names, one compilation per size.

    Raises:
        InputError: no C++ compiler for a CPU; nothing in the system to compile.
    """
    compiler = os.environ.get("CXX", "g++")
    if device.startswith("cpu") and shutil.which(compiler) is None:
        raise InputError(
            f"MODEL.COMPILE needs a C++ compiler, and there is no {compiler}: install one, name it "
            "in CXX, or leave MODEL.COMPILE off"
        )
    networks = getattr(model, "frame_networks", list)()
    if not networks:
        raise InputError(f"MODEL.COMPILE: {type(model).__name__} names no networks to compile")
    for network in networks:
        network.compile(fullgraph=True, dynamic=False)


def _with_counts_of(cfg: CfgNode, card: Mapping[str, Any]) -> CfgNode:
    """Return the config with numbers that 0 counts from training data taken from the weights.

    A demo reads no training set: the number of classes is the checkpoint's, that of identities
    matters in training only.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    system = META_ARCH_REGISTRY.get(name) if name in META_ARCH_REGISTRY else None
    names = class_names_of(card)
    counts = dict.fromkeys(getattr(system, "identities_keys", ()), 1)
    if names and getattr(system, "classes_key", ""):
        counts[system.classes_key] = len(names)
    cfg = cfg.clone()
    cfg.defrost()
    for key, count in counts.items():
        *path, last = key.split(".")
        node = cfg
        for part in path:
            node = node[part]
        if node[last] == 0:
            node[last] = count
    return cfg


def last_weights(cfg: CfgNode) -> str:
    """Return the file that OUTPUT_DIR/last_checkpoint names, "" if there is none.

    Raises:
        InputError: it names a file that is not there.
    """
    record = Path(cfg.OUTPUT_DIR) / "last_checkpoint"
    if not record.is_file():
        return ""
    file = record.parent / record.read_text().strip()
    if not file.is_file():
        raise InputError(f"{record}: names {file.name}, which is not there; name a file in it")
    return str(file)
