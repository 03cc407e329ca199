"""CFBI's weight formats: the authors' network, the DeepLabV3+ that its training starts from, and
torchvision's ResNet.

Names of the authors' network are ours below ``network.``; four of its modules are stored twice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

from ..weights.formats import register_weight_format
from ..weights.resnet import features, is_torchvision_resnet

# Other names of parts of `semantic_embedding`, holding the same tensors.
ALIASES = ("seperate_conv.", "bn1.", "embedding_conv.", "bn2.")
_EXTRACTOR = "feature_extracter."
_RESNET = "backbone.layer1.0.conv1.weight"
_OTHER_BACKBONE = (
    "its feature extractor is no ResNet (the MobileNet version); use the authors' ResNet-101 file"
)
_PLUS = (
    "it is CFBI+ or another variant, whose ensembler is another one; use the authors' ResNet-101 "
    "file of CFBI"
)


def convert(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Map an official state dict to the system ``CFBI``; raises KeyError if of another kind."""
    for key in ("semantic_embedding.0.weight", "dynamic_seghead.IA_final_fg.weight"):
        state[key]
    return {f"network.{k}": v for k, v in state.items() if not k.startswith(ALIASES)}


def convert_start(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Map a DeepLabV3+ (``backbone.``, ``aspp.``, ``decoder.``) to the feature extractor.

    Its classifier has no place here.
    """
    parts = ("backbone.", "aspp.", "decoder.")
    return {f"network.{_EXTRACTOR}{k}": v for k, v in state.items() if k.startswith(parts)}


def convert_resnet(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Map torchvision's ResNet to the backbone of the feature extractor."""
    return features(state, f"network.{_EXTRACTOR}backbone.")


def _is_cfbi(keys: Collection[str]) -> bool:
    """Any network of the family, under its authors' names."""
    return any(k.startswith((_EXTRACTOR, "dynamic_seghead.")) for k in keys)


def _is_network(keys: Collection[str]) -> bool:
    return _is_cfbi(keys) and not _is_variant(keys) and not _has_other_backbone(keys)


def _has_other_backbone(keys: Collection[str]) -> bool:
    extractor = any(k.startswith(f"{_EXTRACTOR}backbone.") for k in keys)
    return _is_cfbi(keys) and extractor and _EXTRACTOR + _RESNET not in keys


def _is_variant(keys: Collection[str]) -> bool:
    whole = {"semantic_embedding.0.weight", "dynamic_seghead.IA_final_fg.weight"}
    return _is_cfbi(keys) and not _has_other_backbone(keys) and not whole <= set(keys)


def _is_start(keys: Collection[str]) -> bool:
    return {_RESNET, "aspp.aspp1.atrous_conv.weight", "decoder.last_conv.0.weight"} <= set(keys)


def _is_start_other(keys: Collection[str]) -> bool:
    deeplab = {"aspp.aspp1.atrous_conv.weight", "decoder.last_conv.0.weight"} <= set(keys)
    return deeplab and _RESNET not in keys


def _is_ours(keys: Collection[str]) -> bool:
    return any(k.startswith(f"network.{_EXTRACTOR}") for k in keys)


register_weight_format("CFBI of its authors", _is_network, convert, system="cfbi")
register_weight_format(
    "MobileNet-CFBI", _has_other_backbone, system="cfbi", unsupported=_OTHER_BACKBONE
)
register_weight_format("CFBI+ or a variant of CFBI", _is_variant, system="cfbi", unsupported=_PLUS)
register_weight_format(
    "the DeepLabV3+ that CFBI starts from", _is_start, convert_start, system="cfbi"
)
register_weight_format(
    "a DeepLabV3+ that is no ResNet", _is_start_other, system="cfbi", unsupported=_OTHER_BACKBONE
)
register_weight_format("torchvision's ResNet", is_torchvision_resnet, convert_resnet, system="cfbi")
register_weight_format("a CFBI checkpoint", _is_ours, system="cfbi", own=True)
