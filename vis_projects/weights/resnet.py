"""torchvision's ResNet and ResNeXt files, for every ResNet in the house.

FRTM's and CFBI's networks have torchvision's names, Detectron2's its own (``stem``, ``res2`` ...).
torchvision trained on RGB in units of its deviation, with the stride in the 3x3 convolution; a
config that gives a Detectron2 ResNet other pixels gets a warning (``pixels_to_set``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch
from detectron2.config import CfgNode

NAME = "torchvision's ResNet"
_PIXELS = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
}
_DROPPED = re.compile(r"fc\.|.*num_batches_tracked$")


def is_torchvision_resnet(keys: Collection[str]) -> bool:
    """Whether these are the names of torchvision's ResNet."""
    return {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer4.0.bn1.bias"} <= set(keys)


def features(state: Mapping[str, torch.Tensor], prefix: str = "") -> dict[str, torch.Tensor]:
    """Return the network without its classifier, names kept, below ``prefix``."""
    return {prefix + k: v for k, v in state.items() if not k.startswith("fc.")}


def to_detectron2(
    state: Mapping[str, torch.Tensor], prefix: str = "backbone.bottom_up."
) -> dict[str, torch.Tensor]:
    """Return the network under Detectron2's names, without its classifier."""
    kept = {k: v for k, v in state.items() if not _DROPPED.match(k)}
    return {prefix + detectron2_name(k): v for k, v in kept.items()}


def pixels_to_set(cfg: CfgNode) -> str:
    """Return the options, with values, that differ from how torchvision trained; "" if none does.

    Of systems with Detectron2's ResNet; those of FRTM and CFBI read torchvision's pixels anyway.
    """
    differ = []
    for key, value in _PIXELS.items():
        found = cfg
        for part in key.split("."):
            found = found[part]
        if isinstance(value, list):
            same = len(found) == 3 and all(abs(a - b) < 0.5 for a, b in zip(found, value))
        else:
            same = found == value
        if not same:
            differ.append(f"{key} {value}")
    return ", ".join(differ)


def detectron2_name(key: str) -> str:
    """``layer1.0.bn2.weight`` -> ``res2.0.conv2.norm.weight``.

    Raises:
        KeyError: no name of torchvision's ResNet.
    """
    module, _, last = key.rpartition(".")
    if match := re.fullmatch(r"(conv|bn)1", module):
        return f"stem.conv1.{_norm(match[1])}{last}"
    if match := re.fullmatch(r"layer([1-4])\.(\d+)\.(.+)", module):
        block = f"res{int(match[1]) + 1}.{match[2]}"
        if inner := re.fullmatch(r"(conv|bn)([1-3])", match[3]):
            return f"{block}.conv{inner[2]}.{_norm(inner[1])}{last}"
        if inner := re.fullmatch(r"downsample\.([01])", match[3]):
            return f"{block}.shortcut.{_norm('bn' if inner[1] == '1' else 'conv')}{last}"
    raise KeyError(key)


def _norm(kind: str) -> str:
    return "norm." if kind == "bn" else ""
