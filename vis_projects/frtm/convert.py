"""The authors' checkpoints to ours: ``python tools/convert_weights.py frtm OFFICIAL OUT``.

Their files hold the segmentation network alone, under ``refiner.``, in the entry ``model`` of a
training file or at the top; names and shapes are ours as they are. The backbone is torchvision's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from ..structures import InputError
from ..weights.formats import register_weight_format
from ..weights.resnet import is_torchvision_resnet
from .backbone import ResNetFeatures

_MARKER = "refiner.TSE.layer4.reduce.0.weight"
_DEPTH_OF_CHANNELS = {256: 18, 1024: 101}


def depth_of(state: Mapping[str, Tensor]) -> int:
    """Return the backbone's depth by the input channels of the network.

    Raises:
        InputError: not a checkpoint of FRTM.
    """
    if _MARKER not in state:
        raise InputError(f"not a checkpoint of FRTM: it has no entry {_MARKER}")
    channels = state[_MARKER].shape[1]
    if channels not in _DEPTH_OF_CHANNELS:
        raise InputError(
            f"checkpoint of FRTM: {channels} channels in {_MARKER}; known are 256 (ResNet-18) and "
            "1024 (ResNet-101)"
        )
    return _DEPTH_OF_CHANNELS[channels]


def convert(
    state: Mapping[str, Any], *, backbone: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return our state dict of an official one.

    Args:
        state: a file's content, its ``model`` entry, or a torchvision ResNet's state dict, which
            gives a checkpoint of the backbone alone.
        backbone: torchvision's state dict of the same depth, to put both into one file.

    Raises:
        InputError: not a checkpoint of FRTM or of a torchvision ResNet, or they do not fit.
    """
    state = state.get("model", state)
    if "conv1.weight" in state and "layer1.0.conv1.weight" in state:
        return backbone_state(state)
    depth = depth_of(state)
    out = {k: v for k, v in state.items() if k.startswith("refiner.")}
    if backbone is not None:
        with torch.device("meta"):  # shapes alone
            expected = ResNetFeatures(depth).state_dict()
        ours = backbone_state(backbone)
        wrong = [
            k for k, v in expected.items()
            if "num_batches" not in k
            and (f"backbone.{k}" not in ours or ours[f"backbone.{k}"].shape != v.shape)
        ]  # fmt: skip
        if wrong:
            raise InputError(
                f"backbone weights do not fit the checkpoint's ResNet-{depth}: {wrong[0]}"
            )
        out.update(ours)
    return out


def backbone_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return torchvision's ResNet under ``backbone.``, without the classifier."""
    return {f"backbone.{k}": v for k, v in state.items() if not k.startswith("fc.")}


def _is_frtm(keys: Collection[str]) -> bool:
    return _MARKER in keys and not any(k.startswith("backbone.") for k in keys)


def _is_ours(keys: Collection[str]) -> bool:
    return _MARKER in keys and "backbone.layer1.0.conv1.weight" in keys


register_weight_format("FRTM of its authors", _is_frtm, convert, system="frtm")
register_weight_format("an FRTM checkpoint", _is_ours, system="frtm", own=True)
register_weight_format("torchvision's ResNet", is_torchvision_resnet, convert, system="frtm")
