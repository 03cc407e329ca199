"""Names of Caffe2-Detectron weights; matching of checkpoint names to a model's by their ends."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "align_and_update_state_dicts",
    "convert_basic_c2_names",
    "convert_c2_detectron_names",
]

_logger = logging.getLogger(__name__)

# The first rule that matches the end of a name turns it into words.
_SUFFIXES = (
    (r"_bn_s$", ".norm.weight"),
    (r"_bn_b$", ".norm.bias"),
    (r"_gn_s$", ".norm.weight"),
    (r"_gn_b$", ".norm.bias"),
    (r"_bn_rm$", ".norm.running_mean"),
    (r"_bn_riv$", ".norm.running_var"),
    (r"_w$", ".weight"),
    (r"_b$", ".bias"),
    (r"_s$", ".weight"),
)
_BACKBONE = (
    (r"^res_conv1\.norm\.", "stem.conv1.norm."),
    (r"^conv1\.(norm\.)?", r"stem.conv1.\1"),
    (r"^pred\.", "linear."),
    (r"^(res\d)_(\d+)_branch1\.", r"\1.\2.shortcut."),
    (r"^(res\d)_(\d+)_branch2a\.", r"\1.\2.conv1."),
    (r"^(res\d)_(\d+)_branch2b\.", r"\1.\2.conv2."),
    (r"^(res\d)_(\d+)_branch2c\.", r"\1.\2.conv3."),
)
_RPN = "proposal_generator.rpn_head"
_HEADS = (
    # The pyramid: lateral convolutions are "inner", names say the last block of the stage.
    (r"^fpn_inner_res(\d)_\d+_sum(_lateral)?\.", r"fpn_lateral\1."),
    (r"^fpn_res(\d)_\d+_sum\.", r"fpn_output\1."),
    # The RPN shares its weights over the levels, filed under the finest.
    (r"^conv_rpn(_fpn2)?\.", f"{_RPN}.conv."),
    (r"^rpn_bbox_pred(_fpn2)?\.", f"{_RPN}.anchor_deltas."),
    (r"^rpn_cls_logits(_fpn2)?\.", f"{_RPN}.objectness_logits."),
    (r"^fc6\.", "box_head.fc1."),
    (r"^fc7\.", "box_head.fc2."),
    (r"^head_conv(\d+)\.", r"box_head.conv\1."),
    (r"^mask_fcn_logits\.", "mask_head.predictor."),
    (r"^_\[?mask\]?_fcn(\d+)\.", r"mask_head.mask_fcn\1."),
    (r"^conv5_mask\.", "mask_head.deconv."),
)


def _rename(name: str, rules: Iterable[tuple[str, str]], *, first: bool = False) -> str:
    """Apply the rules; with ``first`` only the first that matches."""
    for pattern, replacement in rules:
        name, count = re.subn(pattern, replacement, name)
        if count and first:
            break
    return name


def convert_basic_c2_names(original_keys: Iterable[str]) -> list[str]:
    """Rename the layers of a Caffe2 backbone: ``res2_0_branch2a_w``: ``res2.0.conv1.weight``."""
    return [_rename(_rename(k, _SUFFIXES, first=True), _BACKBONE) for k in original_keys]


def convert_c2_detectron_names(
    weights: dict[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Rename Caffe2-Detectron weights and move the background class from the first place.

    It becomes the last row of ``cls_score`` and leaves ``bbox_pred`` (4 rows) and the mask
    predictor (1 row). Returns the weights by new name, and the old names by new one.
    """
    renamed, original = {}, {}
    for old, basic in zip(weights, convert_basic_c2_names(weights)):
        new, value = _rename(basic, _HEADS), weights[old]
        if new in renamed:
            raise ValueError(f"both '{original[new]}' and '{old}' would be called '{new}'")
        if new.startswith("bbox_pred."):
            value = value[4:]
        elif new.startswith("cls_score."):
            value = torch.cat([value[1:], value[:1]])
        elif new.startswith("mask_head.predictor."):
            value = value[1:]
        renamed[new], original[new] = value, old
    return renamed, original


def _match(model_key: str, checkpoint_keys: dict[str, Any]) -> str | None:
    """The longest checkpoint key that is the model key or follows a dot in it."""
    parts = model_key.split(".")
    candidates = (".".join(parts[i:]) for i in range(len(parts)))
    return next((key for key in candidates if key in checkpoint_keys), None)


def align_and_update_state_dicts(
    model_state_dict: dict[str, Tensor],
    ckpt_state_dict: dict[str, Tensor],
    c2_conversion: bool = True,
) -> dict[str, Tensor]:
    """Return the checkpoint's tensors under the names that the model has for them.

    A checkpoint name matches a model name that equals it or ends with "." and it; the longest
    wins. What has another shape is skipped with a warning; what matches nothing keeps its name.
    Raises ValueError where one checkpoint name matches two model names.
    """
    original = {key: key for key in ckpt_state_dict}
    if c2_conversion:
        ckpt_state_dict, original = convert_c2_detectron_names(ckpt_state_dict)
    taken: dict[str, str] = {}
    result: dict[str, Tensor] = {}
    for model_key in sorted(model_state_dict):
        key = _match(model_key, ckpt_state_dict)
        if key is None:
            continue
        value, shape = ckpt_state_dict[key], model_state_dict[model_key].shape
        if tuple(value.shape) != tuple(shape):
            _logger.warning(
                "'%s' of the checkpoint has shape %s, '%s' of the model %s: not loaded",
                original[key],
                tuple(value.shape),
                model_key,
                tuple(shape),
            )
            continue
        if key in taken:
            raise ValueError(
                f"'{original[key]}' of the checkpoint matches both '{taken[key]}' and "
                f"'{model_key}' of the model: rename it to the one that it belongs to"
            )
        taken[key] = model_key
        result[model_key] = value
    if taken:
        _logger.info("%d of %d names of the checkpoint match", len(taken), len(ckpt_state_dict))
    else:
        _logger.warning("No weights of the checkpoint match the model")
    result.update({original[k]: v for k, v in ckpt_state_dict.items() if k not in taken})
    return result
