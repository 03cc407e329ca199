"""Random choice of positive and negative samples."""

from __future__ import annotations

import torch
from detectron2.layers import nonzero_tuple
from torch import Tensor

__all__ = ["subsample_labels"]


def subsample_labels(
    labels: Tensor, num_samples: int, positive_fraction: float, bg_label: int
) -> tuple[Tensor, Tensor]:
    """Draw at most ``num_samples`` of ``labels`` (N,): -1 is ignored, ``bg_label`` is negative.

    At most ``int(num_samples * positive_fraction)`` are positive, negatives fill up.
    Returns the indices of positives and of negatives.
    """
    negative = labels == bg_label
    positive = nonzero_tuple((labels != -1) & ~negative)[0]
    negative = nonzero_tuple(negative)[0]
    num_positive = min(len(positive), int(num_samples * positive_fraction))
    num_negative = min(len(negative), num_samples - num_positive)
    return _draw(positive, num_positive), _draw(negative, num_negative)


def _draw(indices: Tensor, count: int) -> Tensor:
    return indices[torch.randperm(len(indices), device=indices.device)[:count]]
