"""A 3x3 convolution of an enlarged map, without the enlarged map.

Resizing with aligned corners and convolving are linear, so the nine taps are taken on the small map
as 1x1 convolutions; enlarging, shifting and summing them are then two matrix products, one along
rows and one along columns. Equal to the direct form up to rounding, at a fraction of the work.

Letters: B batch, C channels in, O channels out, h x w the small map, H x W the large one.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.nn import functional as F


def enlarged_conv3x3(
    x: torch.Tensor, weight: torch.Tensor, size: tuple[int, int], *, mode: str = "bilinear"
) -> torch.Tensor:
    """``conv2d(interpolate(x, size, mode, align_corners=True), weight, padding=1)``.

    Args:
        x: (B, C, h, w).
        weight: (O, C, 3, 3).
        size: (H, W).
        mode: "bilinear" or "bicubic".

    Returns:
        (B, O, H, W), float32.
    """
    batch, channels, h, w = x.shape
    out = len(weight)
    taps = weight.flatten(2).transpose(1, 2).reshape(9 * out, channels)  # (O, 9) rows
    z = torch.matmul(taps, x.flatten(2)).view(batch, out, 3, 3, h, w)
    rows, columns = (shifted_enlargement(n, m, mode, x.device) for n, m in zip((h, w), size))
    with torch.autocast(x.device.type, enabled=False):
        z = z.float().transpose(3, 4).reshape(batch, out, 3 * h, 3 * w)
        return torch.matmul(rows, torch.matmul(z, columns.T))


@lru_cache(maxsize=64)
def shifted_enlargement(cells: int, pixels: int, mode: str, device: torch.device) -> torch.Tensor:
    """The resize of one axis seen at the offsets -1, 0 and 1: (pixels, 3 * cells).

    What a 3x3 convolution reads beyond the border is zero.
    """
    # On an identity the other axis keeps its size, and with it its values.
    eye = torch.eye(cells)[None, None]
    matrix = F.interpolate(eye, (pixels, cells), mode=mode, align_corners=True)[0, 0]
    padded = F.pad(matrix, (0, 0, 1, 1))
    return torch.cat([padded[d : d + pixels] for d in range(3)], 1).to(device)
