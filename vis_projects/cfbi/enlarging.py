"""The enlargements of CFBI, which all align corners, before a 3x3 convolution."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.nn import functional as F

from ..modeling.backbones.enlarged_convolution import (
    Enlargement,
    at_offsets,
    enlarged_conv3x3,
    enlargement,
)


def conv3x3_of_enlarged(
    x: torch.Tensor, weight: torch.Tensor, size: tuple[int, int], *, mode: str = "bilinear"
) -> torch.Tensor:
    """``conv2d(interpolate(x, size, mode, align_corners=True), weight, padding=1)``.

    Args:
        x: (B, C, h, w).
        weight: (O, C, 3, 3).
        size: (H, W).
        mode: "bilinear" or "bicubic".

    Returns:
        (B, O, H, W), float32 (float64 for float64).
    """
    if torch.compiler.is_compiling():  # a traced program keeps no matrices for one size
        return F.conv2d(F.interpolate(x, size, mode=mode, align_corners=True), weight, padding=1)
    wide = torch.promote_types(x.dtype, torch.float32)
    rows, columns = (_aligned(n, m, mode, x.device, wide) for n, m in zip(x.shape[-2:], size))
    return enlarged_conv3x3(x, weight, rows, columns)


@lru_cache(maxsize=64)
def _aligned(
    cells: int, pixels: int, mode: str, device: torch.device, dtype: torch.dtype
) -> Enlargement:
    matrix = enlargement(cells, pixels, mode=mode, align_corners=True, dtype=dtype)
    return Enlargement.of(at_offsets(matrix), device, offsets=3)
