"""Official Propose-Reduce checkpoints (an mmdetection layout) to ours.

The module names differ and the background class is first there, last here. The converted detector
gives the official outputs with configs/seq_mask_rcnn/official_*.yaml, which keep the old anchors
and the old RoI alignment.
"""

from __future__ import annotations

import re

import torch

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


def convert(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename and reorder the tensors of an official R-50, R-101 or X-101 checkpoint.

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
    for part in ("backbone.", "proposal_generator.", "roi_heads.prop_head.pred2."):
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
    if match := re.fullmatch(r"backbone\.(conv|bn)1", module):
        return f"backbone.bottom_up.stem.conv1.{_norm(match[1])}{last}"
    if match := re.fullmatch(r"backbone\.layer(\d)\.(\d+)\.(.+)", module):
        block = f"backbone.bottom_up.res{int(match[1]) + 1}.{match[2]}"
        if inner := re.fullmatch(r"(conv|bn)(\d)", match[3]):
            return f"{block}.conv{inner[2]}.{_norm(inner[1])}{last}"
        if inner := re.fullmatch(r"downsample\.(\d)", match[3]):
            return f"{block}.shortcut.{_norm('bn' if inner[1] == '1' else 'conv')}{last}"
    return None


def _norm(kind: str) -> str:
    return "norm." if kind == "bn" else ""
