"""Weight formats of CrossVIS: its authors', AdelaiDet's CondInst, torchvision's ResNet.

Module names equal the official ones, so most tensors pass unchanged.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

from ..weights.formats import register_weight_format
from ..weights.resnet import is_torchvision_resnet, to_detectron2

# Parts that only other training modes of the official code use.
_UNUSED = ("mask_head._iter", "mask_branch.seg_head.", "mask_branch.logits.")
_HEAD = "proposal_generator.fcos_head.cls_logits.weight"
_REQUIRED = ("controller.weight", _HEAD)
# How the backbones of ours begin: ResNet and the small one, timm's, Swin.
_OURS = tuple(f"backbone.bottom_up.{n}." for n in ("stem", "res2", "net", "trunk", "patch_embed"))


def convert(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors that our model has, under their official names.

    The identity classifier ``cls`` stays; loading skips it where the number of identities, as it
    skips ``cls_logits`` where the number of classes, differs.

    Raises:
        KeyError: a tensor that every CondInst or CrossVIS checkpoint has is missing.
    """
    for key in _REQUIRED:
        state[key]
    return {k: v for k, v in state.items() if not k.startswith(_UNUSED)}


def _other_backbone(keys: Collection[str]) -> bool:
    bottom_up = any(k.startswith("backbone.bottom_up.") for k in keys)
    return _HEAD in keys and bottom_up and not any(k.startswith(_OURS) for k in keys)


def _is_condinst(keys: Collection[str]) -> bool:
    return set(_REQUIRED) <= set(keys) and not _other_backbone(keys)


def _is_crossvis(keys: Collection[str]) -> bool:
    return _is_condinst(keys) and "proposal_generator.fcos_head.reid_pred.weight" in keys


def _is_stills(keys: Collection[str]) -> bool:
    return _is_condinst(keys) and not _is_crossvis(keys)


def _is_fcos(keys: Collection[str]) -> bool:
    return _HEAD in keys and "controller.weight" not in keys and not _other_backbone(keys)


register_weight_format("CrossVIS", _is_crossvis, convert, system="crossvis")
register_weight_format("CondInst (AdelaiDet's names)", _is_stills, convert, system="crossvis")
register_weight_format(
    "an AdelaiDet model on DLA or another backbone than ResNet",
    _other_backbone,
    system="crossvis",
    unsupported="its backbone has other modules; use a ResNet file, or MODEL.TIMM for DLA-34 "
    "and train CondInst on it",
)
register_weight_format("an FCOS detector of AdelaiDet", _is_fcos, system="crossvis", own=True)
register_weight_format(
    "torchvision's ResNet", is_torchvision_resnet, to_detectron2, system="crossvis"
)
