"""Bilinear enlargement that keeps sample 0 of a map at pixel f // 2 of the enlarged one."""

from __future__ import annotations

import torch


def aligned_bilinear(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Enlarge maps (..., H, W) by a whole factor f to (..., f*H, f*W).

    Output sample i of an axis reads the source at clip((i - f // 2) / f, 0, n - 1), linearly
    interpolated: the centre of cell k of a stride-s map is pixel k*s + s // 2, as FCOS has it.
    """
    if factor == 1:
        return x
    return _enlarge(_enlarge(x, factor, -2), factor, -1)


def _enlarge(x: torch.Tensor, factor: int, axis: int) -> torch.Tensor:
    """Enlarge one axis: the f samples of a cell are fixed mixtures of it and a neighbour.

    Sums of shifted maps have a far cheaper gradient than a general resize.
    """
    n, shift = x.shape[axis], factor // 2
    before = torch.cat([x.narrow(axis, 0, 1), x.narrow(axis, 0, n - 1)], axis)
    after = before
    if factor > 2:
        after = torch.cat([x.narrow(axis, 1, n - 1), x.narrow(axis, n - 1, 1)], axis)
    phases = []
    for r in range(factor):
        weight = (r - shift) / factor  # of the neighbour; negative: of the one before
        if weight == 0:
            phases.append(x)
        else:
            phases.append(torch.lerp(x, before if weight < 0 else after, abs(weight)))
    return torch.stack(phases, x.ndim + axis + 1).flatten(axis - 1, axis)
