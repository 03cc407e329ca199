"""A 3x3 convolution of an enlarged map, without the enlarged map.

Resizing and convolving are linear, so the nine taps are taken on the small map as 1x1 convolutions;
enlarging, shifting and summing them are then two matrix products, one along rows and one along
columns. Equal to the direct form up to rounding, at a fraction of the work.

Letters: B batch, C channels in, O channels out, h x w the small map, H x W the large one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F


@dataclass(frozen=True)
class Enlargement:
    """A resize of one axis, maybe seen at several offsets, as the bands of its matrix.

    A pixel reads a few cells only, so most of the matrix (pixels, offsets * cells) is zero: runs
    of pixels are computed from the cells that they read.

    Attributes:
        cells, pixels: lengths of the axis before and after.
        offsets: 1, or the 3 of ``at_offsets``.
        bands: (first cell, last + 1, matrix (pixels of the run, offsets * cells of the run)).
    """

    cells: int
    pixels: int
    offsets: int
    bands: tuple[tuple[int, int, torch.Tensor], ...]

    @classmethod
    def of(cls, matrix: torch.Tensor, device: torch.device, *, offsets: int = 1) -> Enlargement:
        """Cut a matrix (pixels, offsets * cells) and bring it to a device.

        On a GPU one product costs less than many small ones.
        """
        pixels, cells = len(matrix), matrix.shape[1] // offsets
        runs = max(min(cells // 16, 8), 1) if device.type == "cpu" else 1
        bands = []
        for part in matrix.view(pixels, offsets, cells).chunk(runs):
            read = (part != 0).any(0).any(0).nonzero()[:, 0]
            a, b = (int(read[0]), int(read[-1]) + 1) if len(read) else (0, 1)
            bands.append((a, b, part[..., a:b].flatten(1).contiguous().to(device)))
        return cls(cells, pixels, offsets, tuple(bands))

    @property
    def dtype(self) -> torch.dtype:
        return self.bands[0][2].dtype

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        """Act on the rows of (..., offsets * cells, K): (..., pixels, K)."""
        x = x.unflatten(-2, (self.offsets, self.cells))
        parts = [m @ x[..., a:b, :].flatten(-3, -2) for a, b, m in self.bands]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -2)

    def columns(self, x: torch.Tensor) -> torch.Tensor:
        """Act on the columns of (..., K, offsets * cells): (..., K, pixels)."""
        x = x.unflatten(-1, (self.offsets, self.cells))
        parts = [x[..., a:b].flatten(-2) @ m.T for a, b, m in self.bands]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def enlarged_conv3x3(
    x: torch.Tensor, weight: torch.Tensor, rows: Enlargement, columns: Enlargement
) -> torch.Tensor:
    """``conv2d(enlarged x, weight, padding=1)``.

    Args:
        x: (B, C, h, w).
        weight: (O, C, 3, 3).
        rows, columns: of h to H and w to W at the three offsets of ``at_offsets``, float32 or
            wider.

    Returns:
        (B, O, H, W), in the format of ``rows``.
    """
    batch, channels, h, w = x.shape
    out = len(weight)
    taps = weight.flatten(2).transpose(1, 2).reshape(9 * out, channels)  # (O, 9) rows
    if x.is_contiguous(memory_format=torch.channels_last):
        z = (x.permute(0, 2, 3, 1) @ taps.T).permute(0, 3, 1, 2)
    else:
        z = torch.matmul(taps, x.flatten(2))
    z = z.reshape(batch, out, 3, 3, h, w)
    with torch.autocast(x.device.type, enabled=False):  # the matrices are kept in float32
        z = z.to(rows.dtype).transpose(3, 4).reshape(batch, out, 3 * h, 3 * w)
        return rows.rows(columns.columns(z))


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
