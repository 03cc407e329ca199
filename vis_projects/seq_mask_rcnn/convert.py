"""Official Propose-Reduce checkpoints (an mmdetection layout) to ours.

The module names differ and the background class is first there, last here. The converted detector
gives the official outputs with configs/seq_mask_rcnn/official_*.yaml, which keep the old anchors
and the old RoI alignment.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch

from ..weights.formats import register_weight_format
from ..weights.resnet import detectron2_name, is_torchvision_resnet, to_detectron2

_HEADS = {
    "rpn_head.rpn_conv": "proposal_generator.rpn_head.conv",
    "rpn_head.rpn_cls": "proposal_generator.rpn_head.objectness_logits",
    "rpn_head.rpn_reg": "proposal_generator.rpn_head.anchor_deltas",
    "bbox_head.shared_fcs.0": "roi_heads.box_head.fc1",
    "bbox_head.shared_fcs.1": "roi_heads.box_head.fc2",
    "bbox_head.fc_cls": "roi_heads.box_predictor.cls_score",
    "bbox_head.fc_reg": "roi_heads.box_predictor.bbox_pred",
    "mask_head.upsample": "roi_heads.mask_head.deconv",
    "mask_head.conv_logits": "roi_heads.mask_head.predictor",
}
# Copies of the mask head's layers that no forward pass uses.
_UNUSED = re.compile(r"prop_head\.(convs|upsample|conv_logits)\.")


def convert(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename and reorder the tensors of an official R-50, R-101 or X-101 checkpoint.

    A main-stage checkpoint has no ``prop_head`` and gives the detector alone.

    Raises:
        KeyError: a tensor of another model, or one that is missing.
    """
    out = {}
    for key, value in state.items():
        if key.endswith("num_batches_tracked") or _UNUSED.match(key):
            continue
        name = official_to_ours(key)
        if name is None:
            raise KeyError(f"{key} (unexpected)")
        if "fc_cls" in key:
            value = torch.cat([value[1:], value[:1]])
        elif "fc_reg" in key:
            value = value[4:]
        elif "mask_head.conv_logits" in key:
            value = value[1:]
        out[name] = value
    for part in ("backbone.", "proposal_generator.", "roi_heads.box_predictor."):
        if not any(name.startswith(part) for name in out):
            raise KeyError(part + "*")
    return out


def official_to_ours(key: str) -> str | None:
    """Return our name of an official tensor, None if it is of no known module."""
    module, _, last = key.rpartition(".")
    if module in _HEADS:
        return f"{_HEADS[module]}.{last}"
    if key.startswith("prop_head."):
        return f"roi_heads.{key}"
    if match := re.fullmatch(r"mask_head\.convs\.(\d+)\.conv", module):
        return f"roi_heads.mask_head.mask_fcn{int(match[1]) + 1}.{last}"
    if match := re.fullmatch(r"neck\.(lateral|fpn)_convs\.(\d+)\.conv", module):
        kind = {"lateral": "lateral", "fpn": "output"}[match[1]]
        return f"backbone.fpn_{kind}{int(match[2]) + 2}.{last}"
    if key.startswith("backbone."):
        try:
            return f"backbone.bottom_up.{detectron2_name(key.removeprefix('backbone.'))}"
        except KeyError:
            return None
    return None


def _is_official(keys: Collection[str]) -> bool:
    """mmdetection's two-stage layout of that time: one head each, not a list of stages."""
    return {"bbox_head.fc_cls.weight", "neck.lateral_convs.0.conv.weight"} <= set(keys)


def _is_ours(keys: Collection[str]) -> bool:
    return any(k.startswith("roi_heads.prop_head.") for k in keys)


register_weight_format(
    "Propose-Reduce of its authors", _is_official, convert, system="seq_mask_rcnn"
)
register_weight_format("a Seq Mask R-CNN checkpoint", _is_ours, system="seq_mask_rcnn", own=True)
register_weight_format(
    "torchvision's ResNet", is_torchvision_resnet, to_detectron2, system="seq_mask_rcnn"
)
