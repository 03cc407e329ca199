"""A 3x3 convolution of an enlarged map, without the enlarged map.

Resizing and convolving are linear, so the nine taps are taken on the small map as 1x1 convolutions;
enlarging, shifting and summing them are then two matrix products, one along rows and one along
columns. Equal to the direct form up to rounding, at a fraction of the work.

Letters: B batch, C channels in, O channels out, h x w the small map, H x W the large one.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def enlarged_conv3x3(
    x: torch.Tensor, weight: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """``conv2d(enlarged x, weight, padding=1)``.

    Args:
        x: (B, C, h, w).
        weight: (O, C, 3, 3).
        rows, columns: (H, 3 h) and (W, 3 w), float32 or wider, from ``at_offsets``.

    Returns:
        (B, O, H, W), in the format of ``rows``.
    """
    batch, channels, h, w = x.shape
    out = len(weight)
    taps = weight.flatten(2).transpose(1, 2).reshape(9 * out, channels)  # (O, 9) rows
    z = torch.matmul(taps, x.flatten(2)).view(batch, out, 3, 3, h, w)
    with torch.autocast(x.device.type, enabled=False):  # the matrices are kept in float32
        z = z.to(rows.dtype).transpose(3, 4).reshape(batch, out, 3 * h, 3 * w)
        return torch.matmul(rows, torch.matmul(z, columns.T))


def enlargement(
    cells: int,
    pixels: int,
    *,
    mode: str,
    align_corners: bool,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Return the resize of one axis as a matrix (pixels, cells).

    Args:
        mode: "bilinear" or "bicubic".
    """
    # On an identity the other axis keeps its size, and with it its values.
    eye = torch.eye(cells, dtype=dtype)[None, None]
    return F.interpolate(eye, (pixels, cells), mode=mode, align_corners=align_corners)[0, 0]


def at_offsets(matrix: torch.Tensor) -> torch.Tensor:
    """Return a resize (pixels, cells) seen at the offsets -1, 0 and 1: (pixels, 3 * cells).

    What a 3x3 convolution reads beyond the border is zero.
    """
    padded = F.pad(matrix, (0, 0, 1, 1))
    return torch.cat([padded[d : d + len(matrix)] for d in range(3)], 1)
