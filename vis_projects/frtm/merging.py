"""From the objects' own probabilities to one label map (FRTM, section 3.4).

The planes of a frame are (1 + N, H, W): background first, then the objects in order of their
appearance. The odds p / (1 - p) enter a softmax, as in the authors' code; in the cited "softmax
aggregation" of RGMP the odds themselves are normalised.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..modeling.winner import winner

CLAMP = 1e-7


def aggregate(probabilities: Tensor) -> Tensor:
    """Return the planes (1 + N, H, W) of probabilities (N, H, W): background is the least 1 - p."""
    p = probabilities.clamp(CLAMP, 1 - CLAMP)
    background = (1 - p).amin(0, keepdim=True)
    p = torch.cat([background.clamp(CLAMP, 1 - CLAMP), p])
    return torch.softmax(p / (1 - p), 0)


def merge(probabilities: Tensor) -> Tensor:
    """Return the planes (1 + N, H, W), each zero where another one wins."""
    planes = aggregate(probabilities)
    order = torch.arange(len(planes), dtype=torch.int16, device=planes.device).view(-1, 1, 1)
    return torch.where(order == winner(planes), planes, torch.zeros_like(planes))


def plane_labels(planes: Tensor, *, passes: int) -> Tensor:
    """Return the index (H, W) of the plane each pixel is given to, 0 for background.

    Args:
        planes: merged planes (1 + N, H, W).
        passes: 1 takes the winner. 2 merges the merged planes again, as the authors' DAVIS
            evaluation does: a winner below one half loses its pixel to the background. A single
            object is thresholded at one half in both.
    """
    if len(planes) == 1:
        return torch.zeros(planes.shape[-2:], dtype=torch.int64, device=planes.device)
    if len(planes) == 2:
        return (planes[1] > 0.5).long()
    return winner(aggregate(planes[1:]) if passes == 2 else planes).long()
