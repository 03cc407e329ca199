"""Non-maximum suppression."""

from __future__ import annotations

from torch import Tensor
from torchvision.ops import boxes as box_ops
from torchvision.ops import nms

__all__ = ["batched_nms", "nms"]


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Suppress within groups: boxes (N, 4), scores (N,), group indices (N,).

    Returns the kept indices, best score first. Coordinates are compared in float32.
    """
    assert boxes.shape[-1] == 4, f"boxes must be (N, 4), not {tuple(boxes.shape)}"
    return box_ops.batched_nms(boxes.float(), scores, idxs, iou_threshold)
