"""Weight files in the authors' containers, made from the recorded lists of their keys.

Values are those of ``fill.values`` for the canonical key, so that tests can tell every tensor.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import fill
import torch
from torch import Tensor

GOLDENS = Path(__file__).parents[1] / "goldens"
State = dict[str, Tensor]


def filled(key: str, shape: tuple[int, ...] | list[int], name: str = "") -> Tensor:
    return torch.from_numpy(fill.values(name or key, tuple(shape)).copy()).reshape(tuple(shape))


def numbered(key: str, shape: tuple[int, ...] | list[int], name: str = "") -> Tensor:
    """Cheaper than ``filled``: numbers in order that begin elsewhere for every key."""
    start = zlib.crc32((name or key).encode()) % 1000
    count = math.prod(shape)
    return (torch.arange(count, dtype=torch.float32) + start).reshape(tuple(shape))


def _listing(name: str) -> dict:
    return json.loads((GOLDENS / name).read_text())


def cfbi() -> State:
    """The authors' CFBI: 761 entries, four modules stored twice."""
    listing = _listing("cfbi/official_keys.json")
    state = {}
    for key, shape in listing["keys"].items():
        name = key
        for alias, target in listing["aliases"].items():
            if key.startswith(alias):
                name = target + key[len(alias) :]
        state[key] = filled(key, shape, name)
    return state


def deeplab() -> State:
    """The DeepLabV3+ that CFBI's training starts from, with a classifier of its own."""
    prefix = "feature_extracter."
    state = {k.removeprefix(prefix): v for k, v in cfbi().items() if k.startswith(prefix)}
    state["classifier.weight"] = filled("classifier.weight", (21, 256, 1, 1))
    return state


def crossvis() -> State:
    """The authors' CrossVIS, R-50, 40 classes, 3774 identities."""
    listing = _listing("crossvis/official_keys_r50.json")
    return {k: filled(k, v["shape"]) for k, v in listing.items()}


def condinst() -> State:
    """AdelaiDet's CondInst of COCO: no identities, 80 classes, a semantic head beside."""
    state = {k: v for k, v in crossvis().items() if "reid" not in k and not k.startswith("cls.")}
    for last in ("weight", "bias"):
        key = f"proposal_generator.fcos_head.cls_logits.{last}"
        state[key] = filled(key, (80, *state[key].shape[1:]))
    state["mask_branch.logits.weight"] = torch.zeros(80, 128, 1, 1)
    return state


def frtm(depth: int = 18) -> State:
    """The authors' FRTM: the segmentation network alone."""
    return {k: filled(k, v[0]) for k, v in _listing(f"frtm/official_keys_r{depth}.json").items()}


def propose_reduce() -> list[tuple[str, Tensor, str | None, str]]:
    """Rows of the authors' Seq Mask R-CNN, R-50: key, tensor, our name or None, transform."""
    listing = _listing("seq_mask_rcnn/official_keys_r50.json")
    rows = next(v for v in listing.values() if isinstance(v, list) and isinstance(v[0], list))
    return [(key, filled(key, shape), ours, how) for key, shape, ours, how in rows]


def swin_backbone() -> State:
    """The authors' Swin-B of ImageNet: with a classifier, buffers that are computed, no norm0-3."""
    keys = _listing("swin/official_keys.json")["keys"]
    return {k: filled(k, v[0]) for k, v in keys.items()}


def swin_detector() -> tuple[State, dict[str, str]]:
    """The authors' cascade on Swin-B, and Detectron2's names of its tensors."""
    state = {f"backbone.{k}": v for k, v in swin_backbone().items()}
    keys = _listing("swin/official_detector_keys.json")["keys"]
    names = {}
    for key, (shape, name) in keys.items():
        state[key] = filled(key, shape)
        if name:
            names[key] = name
    return state, names
