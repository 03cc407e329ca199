"""Which of several planes has each pixel."""

from __future__ import annotations

import torch
from torch import Tensor


def winner(planes: Tensor) -> Tensor:
    """Return the index int16 (H, W) of the largest plane; of equal planes the first."""
    count = len(planes)
    rank = torch.arange(count, 0, -1, dtype=torch.int16, device=planes.device).view(-1, 1, 1)
    best = planes == planes.amax(0, keepdim=True)
    return count - (best.to(torch.int16) * rank).amax(0)
