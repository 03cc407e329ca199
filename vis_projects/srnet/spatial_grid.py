"""The spatial grid (SRNet, Eq. 1): coordinates that do not depend on the resolution.

Letters: h rows, w columns of a map; (x, y) = (column, row). The short side of the map spans
[-1, 1], the long side [-ratio, ratio], cell centres of the first and last row and column on the
ends. Lengths and positions "in grid units" are in these coordinates.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def half_extent(h: int, w: int) -> tuple[float, float]:
    """Return (T_x, T_y), half the sides of the grid."""
    return max(1.0, w / h), max(1.0, h / w)


def spatial_grid(
    h: int,
    w: int,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Return S (2, h, w), x first (Eq. 1). Always at least float32."""
    (step_x, half_x), (step_y, half_y) = _steps(h, w)
    x = torch.arange(w, device=device, dtype=torch.float64) * step_x - half_x
    y = torch.arange(h, device=device, dtype=torch.float64) * step_y - half_y
    return torch.stack([x.expand(h, w), y[:, None].expand(h, w)]).to(dtype)


def _steps(h: int, w: int) -> tuple[tuple[float, float], tuple[float, float]]:
    half_x, half_y = half_extent(h, w)
    # A single row or column has no extent: its step is arbitrary.
    return (2 * half_x / max(w - 1, 1), half_x), (2 * half_y / max(h - 1, 1), half_y)


def to_grid(points: torch.Tensor, h: int, w: int) -> torch.Tensor:
    """Convert fractional cell indices (..., 2) = (column, row) to grid coordinates."""
    (step_x, half_x), (step_y, half_y) = _steps(h, w)
    x = points[..., 0] * step_x - half_x
    y = points[..., 1] * step_y - half_y
    return torch.stack([x, y], -1)


def cell_size(h: int, w: int) -> tuple[float, float]:
    """Return a cell's (width, height) in grid units."""
    (step_x, _), (step_y, _) = _steps(h, w)
    return step_x, step_y


def sample_bilinear(field: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Interpolate ``field`` (C, h, w) at cell indices (N, 2) = (column, row): (N, C).

    Points outside are moved to the border.
    """
    h, w = field.shape[-2:]
    x = points[:, 0] * (2 / max(w - 1, 1)) - 1
    y = points[:, 1] * (2 / max(h - 1, 1)) - 1
    where = torch.stack([x, y], -1)
    sampled = F.grid_sample(
        field[None], where[None, None].to(field.dtype), align_corners=True, padding_mode="border"
    )
    return sampled[0, :, 0].T
