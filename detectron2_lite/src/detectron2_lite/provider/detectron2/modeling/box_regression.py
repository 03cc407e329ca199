"""Boxes as deltas to reference boxes (R-CNN, Appendix C), and their losses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from detectron2.layers import cat
from detectron2.structures import Boxes
from fvcore.nn import giou_loss, smooth_l1_loss
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss

__all__ = ["Box2BoxTransform", "_dense_box_regression_loss", "_iou_box_loss"]

_DEFAULT_SCALE_CLAMP = math.log(1000.0 / 16)


class Box2BoxTransform:
    """Deltas (dx, dy, dw, dh): centre shift in box sides, log of the scale, times weights."""

    def __init__(
        self,
        weights: tuple[float, float, float, float],
        scale_clamp: float = _DEFAULT_SCALE_CLAMP,
    ):
        """``scale_clamp``: upper limit of dw and dh before the exponential."""
        self.weights = weights
        self.scale_clamp = scale_clamp

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """Deltas (N, 4) that move XYXY ``src_boxes`` (N, 4) to ``target_boxes``."""
        src_size = src_boxes[:, 2:] - src_boxes[:, :2]
        target_size = target_boxes[:, 2:] - target_boxes[:, :2]
        src_centre = src_boxes[:, :2] + 0.5 * src_size
        target_centre = target_boxes[:, :2] + 0.5 * target_size
        assert (src_size[:, 0] > 0).all(), "a source box of Box2BoxTransform has no width"
        weights = src_boxes.new_tensor(self.weights)
        shift = weights[:2] * (target_centre - src_centre) / src_size
        return torch.cat([shift, weights[2:] * torch.log(target_size / src_size)], dim=1)

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Move ``boxes`` (N, 4) by ``deltas`` (N, 4 K): K boxes for each, (N, 4 K), float32."""
        deltas = deltas.float().unflatten(1, (-1, 4))
        boxes = boxes.to(deltas.dtype)[:, None]
        size = boxes[..., 2:] - boxes[..., :2]
        centre = boxes[..., :2] + 0.5 * size
        deltas = deltas / deltas.new_tensor(self.weights)
        centre = deltas[..., :2] * size + centre
        half = 0.5 * torch.exp(deltas[..., 2:].clamp(max=self.scale_clamp)) * size
        return torch.cat([centre - half, centre + half], dim=-1).flatten(1)


def _iou_box_loss(predicted: Tensor, target: Tensor, *, kind: str) -> Tensor:
    """Sum of the giou, diou or ciou loss over XYXY boxes (N, 4); ValueError for another kind."""
    losses = {"giou": giou_loss, "diou": distance_box_iou_loss, "ciou": complete_box_iou_loss}
    if kind not in losses:
        raise ValueError(f"BBOX_REG_LOSS_TYPE {kind!r}: choose smooth_l1, giou, diou or ciou")
    return losses[kind](predicted, target, reduction="sum")


def _dense_box_regression_loss(
    anchors: Sequence[Boxes],
    transform: Box2BoxTransform,
    predicted_deltas: Sequence[Tensor],
    gt_boxes: Sequence[Tensor],
    *,
    foreground: Tensor,
    loss_type: str = "smooth_l1",
    smooth_l1_beta: float = 0.0,
) -> Tensor:
    """Sum of the box loss over the foreground anchors of a batch.

    ``anchors``: per level, R in all; ``predicted_deltas``: per level (N, R_i, 4); ``gt_boxes``: per
    image (R, 4); ``foreground``: (N, R) bool.
    """
    boxes = cat([level.tensor for level in anchors], dim=0)
    deltas = cat(list(predicted_deltas), dim=1)
    target = torch.stack(list(gt_boxes))[foreground]
    boxes = boxes.expand(len(gt_boxes), -1, -1)[foreground]
    deltas = deltas[foreground]
    if loss_type == "smooth_l1":
        return smooth_l1_loss(
            deltas, transform.get_deltas(boxes, target), beta=smooth_l1_beta, reduction="sum"
        )
    return _iou_box_loss(transform.apply_deltas(deltas, boxes), target, kind=loss_type)
