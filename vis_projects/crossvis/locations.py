"""Which pixel a cell stands for, and reading maps at single cells of several levels.

Letters: L levels, h_l x w_l cells of level l with stride s_l, B images. Flat order of all
per-cell arrays: level, image, row, column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Cells:
    """A selection of N cells.

    Attributes:
        level, image, row, column: int64 (N,).
    """

    level: torch.Tensor
    image: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor

    def __len__(self) -> int:
        return len(self.level)

    def __getitem__(self, keep: torch.Tensor) -> Cells:
        return Cells(self.level[keep], self.image[keep], self.row[keep], self.column[keep])

    def locations(self, strides: Sequence[int]) -> torch.Tensor:
        """(N, 2) x, y in pixels of the padded input: s * cell + s // 2."""
        stride = torch.tensor(list(strides)).to(self.level.device, non_blocking=True)[self.level]
        return torch.stack(
            [self.column * stride + stride // 2, self.row * stride + stride // 2], 1
        ).float()


def grid_locations(
    height: int, width: int, stride: int, device: torch.device | str
) -> torch.Tensor:
    """(h*w, 2) x, y in pixels of all cells of a level, row by row."""
    y = torch.arange(height, device=device, dtype=torch.float32) * stride + stride // 2
    x = torch.arange(width, device=device, dtype=torch.float32) * stride + stride // 2
    return torch.stack(
        [x[None].expand(height, width), y[:, None].expand(height, width)], -1
    ).reshape(-1, 2)


def flatten_levels(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Maps [(B, C, h_l, w_l)] to (sum of B*h_l*w_l, C) in flat order."""
    return torch.cat([m.permute(0, 2, 3, 1).reshape(-1, m.shape[1]) for m in maps])


def cells_at(flat: torch.Tensor, sizes: Sequence[tuple[int, int]], images: int) -> Cells:
    """Cells of positions (N,) in flat order, for levels of the given (h_l, w_l) and B images."""
    device = flat.device
    h, w = (torch.tensor(v).to(device, non_blocking=True) for v in zip(*sizes))
    ends = (h * w * images).cumsum(0)
    level = torch.bucketize(flat, ends, right=True)
    inside = flat - (ends - h * w * images)[level]
    image, cell = inside // (h * w)[level], inside % (h * w)[level]
    return Cells(level, image, cell // w[level], cell % w[level])


def conv3x3_at(maps: Sequence[torch.Tensor], conv: nn.Conv2d, cells: Cells) -> torch.Tensor:
    """A 3x3 convolution with padding 1, evaluated at the given cells alone: (N, out).

    Equal to the convolution of every map followed by a look-up; the cost is that of N cells.

    Args:
        maps: [(B, C, h_l, w_l)].
        conv: weight (out, C, 3, 3).
        cells: where.
    """
    device = maps[0].device
    channels = maps[0].shape[1]
    padded = [F.pad(m, (1, 1, 1, 1)) for m in maps]
    flat = torch.cat([p.permute(0, 2, 3, 1).reshape(-1, channels) for p in padded])
    sizes = torch.tensor([[p.shape[2], p.shape[3], len(p)] for p in padded])
    sizes = sizes.to(device, non_blocking=True)
    start = F.pad(sizes.prod(1).cumsum(0), (1, 0))[:-1]
    h, w = sizes[cells.level, 0], sizes[cells.level, 1]
    corner = start[cells.level] + (cells.image * h + cells.row) * w + cells.column
    three = torch.arange(3, device=device)
    offsets = (three[:, None, None] * w + three[:, None]).reshape(9, -1).T  # row-major window
    patches = flat[corner[:, None] + offsets].flatten(1)  # (N, 9 * C)
    weight = conv.weight.permute(0, 2, 3, 1).flatten(1)
    bias = None if conv.bias is None else conv.bias.to(patches.dtype)
    return F.linear(patches, weight.to(patches.dtype), bias)
