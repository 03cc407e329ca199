"""Overlaps of all pairs of masks as one matrix product."""

from __future__ import annotations

import torch


def pairwise_mask_intersection(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Pixels in common of masks a (N, H, W) and b (M, H, W): float32 (N, M), exact below 2**24."""
    return a.flatten(1).float() @ b.flatten(1).float().T


def pairwise_mask_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mask IoU (N, M); 0 where the union is empty."""
    intersection = pairwise_mask_intersection(a, b)
    area_a, area_b = (m.flatten(1).sum(1, dtype=torch.float32) for m in (a, b))
    union = area_a[:, None] + area_b[None] - intersection
    return intersection / union.clamp(min=1)
