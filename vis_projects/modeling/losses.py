"""Losses that several systems share.

Letters: N samples, C classes, P pixels.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def sigmoid_focal_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> torch.Tensor:
    """Sum of the sigmoid focal loss (Lin et al., "Focal loss for dense object detection", Eq. 5).

    Args:
        logits: any shape.
        targets: 0 or 1, the same shape.
        alpha: weight of the positive targets, 1 - alpha that of the negative ones; < 0: none.
        gamma: focusing exponent.

    Returns:
        Scalar sum; divide by the number of positives.
    """
    targets = targets.to(logits.dtype)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p = logits.sigmoid()
    miss = p + targets - 2 * p * targets  # 1 - p_t
    loss = cross_entropy * (miss.square() if gamma == 2.0 else miss.pow(gamma))
    if alpha >= 0:
        loss = loss * (1 - alpha + (2 * alpha - 1) * targets)
    return loss.sum()


def class_focal_loss(
    logits: torch.Tensor, labels: torch.Tensor, *, alpha: float = 0.25, gamma: float = 2.0
) -> torch.Tensor:
    """Sum of the sigmoid focal loss of logits (N, C) against labels (N,) in 0..C.

    A label of C (or more) is background: every column is a negative.
    """
    columns = torch.arange(logits.shape[1], device=logits.device)
    return sigmoid_focal_loss(logits, labels[:, None] == columns, alpha=alpha, gamma=gamma)


def dice_loss(probabilities: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Dice loss per mask, 1 - 2 sum(pg) / (sum(p^2) + sum(g^2) + 1e-5) (CrossVIS, Eq. 8).

    Args:
        probabilities, targets: (N, ...) in [0, 1].

    Returns:
        (N,).
    """
    p = probabilities.flatten(1)
    g = targets.flatten(1).to(p.dtype)
    intersection = (p * g).sum(1)
    return 1 - 2 * intersection / (p.square().sum(1) + g.square().sum(1) + 1e-5)


def ltrb_iou(predicted: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """IoU and GIoU of boxes given as distances (left, top, right, bottom) from one point, (N, 4).

    FCOS's own smoothing: IoU = (intersection + 1) / (union + 1); the GIoU term has no + 1. The
    enclosing box is guarded against zero area.
    """
    area_p = (predicted[:, 0] + predicted[:, 2]) * (predicted[:, 1] + predicted[:, 3])
    area_t = (target[:, 0] + target[:, 2]) * (target[:, 1] + target[:, 3])
    inner = torch.minimum(predicted, target)
    outer = torch.maximum(predicted, target)
    intersection = (inner[:, 0] + inner[:, 2]) * (inner[:, 1] + inner[:, 3])
    enclosing = (outer[:, 0] + outer[:, 2]) * (outer[:, 1] + outer[:, 3])
    union = area_p + area_t - intersection
    iou = (intersection + 1) / (union + 1)
    return iou, iou - (enclosing - union) / enclosing.clamp(min=1e-7)
