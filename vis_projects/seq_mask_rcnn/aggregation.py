"""Soft aggregation: one distribution per pixel over the background and the O instances of a key
frame (space-time memory networks; Propose-Reduce as released, not in its paper)."""

from __future__ import annotations

import torch

from ..modeling.precision import at_least_float32

_EPSILON = 1e-7  # keeps the logits finite; needs float32


def aggregation_logits(probabilities: torch.Tensor) -> torch.Tensor:
    """Return logits (O + 1, H, W), row 0 the background, of probabilities (O, H, W) in [0, 1]."""
    p = at_least_float32(probabilities)
    background = torch.prod(1 - p, dim=0, keepdim=True)
    e = torch.cat([background, p]).clamp(_EPSILON, 1 - _EPSILON)
    return torch.log(e / (1 - e))


def aggregate(probabilities: torch.Tensor) -> torch.Tensor:
    """Return the aggregated probabilities (O, H, W) of the instances, without the background."""
    return aggregation_logits(probabilities).softmax(0)[1:]


def aggregate_groups(probabilities: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Aggregate the rows (R, H, W) of several key frames or images by themselves.

    Args:
        counts: rows of each, in order; instances of different ones never interact.
    """
    if not counts:
        return at_least_float32(probabilities)
    return torch.cat([aggregate(p) for p in probabilities.split(counts)])
