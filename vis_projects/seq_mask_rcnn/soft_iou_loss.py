"""Scale-balanced soft IoU loss (Propose-Reduce, section 3.1.3): every instance counts the same."""

from __future__ import annotations

import torch


def soft_iou_loss(probabilities: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return 1 - sum min(q, y) / (sum max(q, y) + 1e-6) for each of (N, H, W): (N,)."""
    q = probabilities.flatten(1)
    y = targets.flatten(1).to(q.dtype)
    return 1 - torch.minimum(q, y).sum(1) / (torch.maximum(q, y).sum(1) + 1e-6)
