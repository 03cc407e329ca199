"""Pixel weights that balance target and background (FRTM, Eq. 4)."""

from __future__ import annotations

import torch
from torch import Tensor

MIN_PIXELS = 10  # a smaller target counts as absent


def pixel_weights(masks: Tensor, *, k_min: float = 0.1) -> Tensor:
    """Return the weights v^2 (..., H, W) that enter the loss once (FRTM, Eq. 4).

    The target's share of the loss is raised to ``k_min`` where it covers less of the frame. A
    target below ten pixels, and one that fills the frame, gives ones.

    Args:
        masks: (..., H, W); foreground where above 0.5.
        k_min: least target influence, a fraction of the frame.
    """
    inside = masks > 0.5
    pixels = masks.shape[-2] * masks.shape[-1]
    dtype = masks.dtype if masks.is_floating_point() else torch.get_default_dtype()
    count = inside.sum((-2, -1), keepdim=True)
    share = count.to(dtype) / pixels
    share = torch.where(count < MIN_PIXELS, torch.full_like(share, k_min), share)
    wanted = share.clamp(min=k_min)
    foreground = wanted / share
    background = (1 - wanted) / (1 - share)
    background = torch.where(count == pixels, torch.ones_like(background), background)
    return torch.where(inside, foreground, background)
