"""How likely a cell belongs to an instance (SRNet, Eqs. 2 to 4).

Letters: D embedding channels (x, y and the free ones), N instances, M cells, h x w map.
All of it is computed in float32, also under autocast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from .spatial_grid import spatial_grid


def activate_offset(raw: torch.Tensor) -> torch.Tensor:
    """E = tanh(z / 4): bounded, so that E + S stays near the grid."""
    return torch.tanh(0.25 * _wide(raw))


def log_precision(raw: torch.Tensor) -> torch.Tensor:
    """r, the bandwidth head's output within [-6, 8]; Sigma in [0.0058, 6.35]."""
    return _wide(raw).clamp(-6, 8)


def bandwidth(r: torch.Tensor) -> torch.Tensor:
    """Sigma = 10^-0.5 exp(-r / 2), that is 1 / Sigma^2 = 10 exp(r)."""
    return 10**-0.5 * torch.exp(-0.5 * r)


def embed(offset: torch.Tensor) -> torch.Tensor:
    """E + [S | 0 0] for offsets E (..., D, h, w)."""
    h, w = offset.shape[-2:]
    grid = spatial_grid(h, w, device=offset.device, dtype=offset.dtype)
    return torch.cat([offset[..., :2, :, :] + grid, offset[..., 2:, :, :]], dim=-3)


def inverse_bandwidth(sigma: torch.Tensor, extra: Sequence[float]) -> torch.Tensor:
    """Return [1/Sigma | 1/phi] (N, D) from Sigma (N, 2) and the fixed ``extra`` bandwidths phi."""
    columns = [sigma.reciprocal()]
    columns += [torch.full_like(sigma[:, :1], 1 / phi) for phi in extra]
    return torch.cat(columns, dim=1)


def squared_distance(
    embedding: torch.Tensor, centre: torch.Tensor, inverse: torch.Tensor
) -> torch.Tensor:
    """Return sum_k ((emb_k - c_k) / Sigma_k)^2 as (N, M); Eq. 3 is exp of minus half of it.

    Every element is computed by the same operations in the same order whatever N and M are, so
    that subsets of cells or instances give the same bits.

    Args:
        embedding: (D, M).
        centre, inverse: (N, D).
    """
    total = None
    for k in range(embedding.shape[0]):
        deviation = (embedding[k][None] - centre[:, k : k + 1]) * inverse[:, k : k + 1]
        square = deviation * deviation
        total = square if total is None else total + square
    return total


def probability(distance: torch.Tensor) -> torch.Tensor:
    """Eq. 3 from the squared distance."""
    return torch.exp(-0.5 * distance)


def distance_limit(mask_threshold: float) -> float:
    """P > threshold is squared distance < this (1.386 for 0.5)."""
    if not 0 < mask_threshold < 1:
        raise ValueError(f"a mask threshold lies between 0 and 1, not {mask_threshold}")
    return -2 * math.log(mask_threshold)


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()
