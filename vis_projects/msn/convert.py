"""Official Swin checkpoints to our names: ImageNet backbones and whole cascade detectors."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch

from ..structures import InputError
from ..weights.formats import register_weight_format

# Official detector name -> Detectron2's, in order; the first that matches holds.
_RULES = (
    (r"backbone\.(.+)", r"backbone.bottom_up.\1"),
    (r"rpn_head\.rpn_conv\.(.+)", r"proposal_generator.rpn_head.conv.\1"),
    (r"rpn_head\.rpn_cls\.(.+)", r"proposal_generator.rpn_head.objectness_logits.\1"),
    (r"rpn_head\.rpn_reg\.(.+)", r"proposal_generator.rpn_head.anchor_deltas.\1"),
    (r"roi_head\.bbox_head\.(\d)\.fc_cls\.(.+)", r"roi_heads.box_predictor.\1.cls_score.\2"),
    (r"roi_head\.bbox_head\.(\d)\.fc_reg\.(.+)", r"roi_heads.box_predictor.\1.bbox_pred.\2"),
    (r"roi_head\.mask_head\.(\d)\.upsample\.(.+)", r"roi_heads.mask_head.\1.deconv.\2"),
    (r"roi_head\.mask_head\.(\d)\.conv_logits\.(.+)", r"roi_heads.mask_head.\1.predictor.\2"),
)
# The same with a number that counts from another start: pattern, name, offset.
_COUNTED = (
    (r"neck\.lateral_convs\.(\d)\.conv\.(.+)", "backbone.fpn_lateral{n}.{rest}", 2),
    (r"neck\.fpn_convs\.(\d)\.conv\.(.+)", "backbone.fpn_output{n}.{rest}", 2),
    (
        r"roi_head\.bbox_head\.(?P<stage>\d)\.shared_convs\.(\d)\.conv\.(.+)",
        "roi_heads.box_head.{stage}.conv{n}.{rest}",
        1,
    ),
    (
        r"roi_head\.bbox_head\.(?P<stage>\d)\.shared_convs\.(\d)\.bn\.(.+)",
        "roi_heads.box_head.{stage}.conv{n}.norm.{rest}",
        1,
    ),
    (
        r"roi_head\.bbox_head\.(?P<stage>\d)\.shared_fcs\.(\d)\.(.+)",
        "roi_heads.box_head.{stage}.fc{n}.{rest}",
        1,
    ),
    (
        r"roi_head\.mask_head\.(?P<stage>\d)\.convs\.(\d)\.conv\.(.+)",
        "roi_heads.mask_head.{stage}.mask_fcn{n}.{rest}",
        1,
    ),
)
_DROPPED = ("relative_position_index", "attn_mask")  # computed, not learned


def detector_name(official: str) -> str | None:
    """Return our name of a parameter of the official detector, None if there is none."""
    for pattern, name in _RULES:
        if match := re.fullmatch(pattern, official):
            return match.expand(name)
    for pattern, name, offset in _COUNTED:
        if match := re.fullmatch(pattern, official):
            number, rest = match.groups()[-2:]
            return name.format(n=int(number) + offset, rest=rest, **match.groupdict())
    return None


def convert(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Convert an official Swin checkpoint to the names of ``MSNDetector``.

    Either a whole Cascade Mask R-CNN of the official Swin detection repository, or a backbone
    pre-trained on ImageNet, whose classifier and last norm have no place here.

    Raises:
        InputError: neither of the two, or names that this layout does not have.
    """
    learned = {k: v for k, v in state.items() if not k.endswith(_DROPPED)}
    if "patch_embed.proj.weight" in learned:
        kept = {k: v for k, v in learned.items() if not re.match(r"(head|norm|mask_token)\b", k)}
        return {f"backbone.bottom_up.{k}": v for k, v in kept.items()}
    if "backbone.patch_embed.proj.weight" not in learned:
        raise InputError(
            "no Swin checkpoint: neither patch_embed.proj.weight nor backbone.patch_embed.proj."
            "weight is in it"
        )
    converted = {}
    for official, value in learned.items():
        name = detector_name(official)
        if name is None:
            raise InputError(f"{official}: no parameter of the official Swin cascade detectors")
        converted[name] = value
    return converted


def _is_swin(keys: Collection[str]) -> bool:
    patches = ("patch_embed.proj.weight", "backbone.patch_embed.proj.weight")
    return any(k in keys for k in patches)


def _is_ours(keys: Collection[str]) -> bool:
    return "backbone.bottom_up.patch_embed.proj.weight" in keys


def _is_pipeline(keys: Collection[str]) -> bool:
    heads = {k.split(".")[0] for k in keys}
    return {"detector", "propagator"} <= heads


register_weight_format("Swin of its authors", _is_swin, convert, system="swin")
register_weight_format("a detector of MSN", _is_ours, system="swin", own=True)
register_weight_format("MSN's pipeline", _is_pipeline, system="swin", own=True)
