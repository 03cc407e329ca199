"""Bilinear enlargement that keeps sample 0 of a map at pixel f // 2 of the enlarged one."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def aligned_bilinear(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Enlarge maps (N, C, H, W) by a whole factor f to (N, C, f*H, f*W).

    Output sample i of an axis reads the source at clip((i - f // 2) / f, 0, n - 1), linearly
    interpolated: the centre of cell k of a stride-s map is pixel k*s + s // 2, as FCOS has it.

    Written as one enlargement with aligned corners of the map whose last row and column are
    repeated: sample j of it reads j / f, and the shift by f // 2 is a repetition of sample 0.
    """
    if factor == 1:
        return x
    h, w = x.shape[2:]
    shift = factor // 2
    x = F.pad(x, (0, 1, 0, 1), mode="replicate")
    x = F.interpolate(x, (factor * h + 1, factor * w + 1), mode="bilinear", align_corners=True)[
        :, :, : factor * h - shift, : factor * w - shift
    ]
    return F.pad(x, (shift, 0, shift, 0), mode="replicate")
