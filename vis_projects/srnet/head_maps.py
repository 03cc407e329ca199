"""What post-processing asks of the network for one frame: some maps, and values at some cells.

Sigma is needed at seeds and the tracking vectors at mass centres only, so the two heads need not
be evaluated on the whole map. Letters: D embedding channels, C classes, h x w map (stride 4).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch.nn import functional as F

from .decoder import Heads
from .instance_probability import bandwidth, embed, log_precision
from .spatial_grid import sample_bilinear


class HeadMaps(ABC):
    """Head outputs of one frame after activation.

    Attributes:
        embedding: E + [S | 0 0], float32 (D, h, w).
        objectness: float32 (h, w).
        category: class probabilities, float32 (C, h, w), or None.
        valid: bool (h, w): cells inside the image.
    """

    def __init__(
        self,
        offset: torch.Tensor,
        objectness: torch.Tensor,
        category_logits: torch.Tensor | None,
        valid: torch.Tensor | None = None,
    ) -> None:
        self.embedding = embed(offset)
        self.objectness = objectness
        self.category = None if category_logits is None else category_logits.softmax(0)
        self.valid = torch.ones_like(objectness, dtype=torch.bool) if valid is None else valid

    @abstractmethod
    def sigma_at(self, cells: torch.Tensor) -> torch.Tensor:
        """Sigma (M, 2) at row-major cells (M,)."""

    @abstractmethod
    def tracking_at(self, points: torch.Tensor) -> torch.Tensor:
        """T (N, 2) in grid units at fractional cell indices (N, 2) = (column, row)."""


class DenseMaps(HeadMaps):
    """Sigma (2, h, w) and T (2, h, w) are given as maps."""

    def __init__(
        self, offset, sigma, tracking, objectness, category_logits=None, valid=None
    ) -> None:
        super().__init__(offset, objectness, category_logits, valid)
        self.sigma = sigma.flatten(1)
        self.tracking = tracking

    def sigma_at(self, cells: torch.Tensor) -> torch.Tensor:
        return self.sigma.index_select(1, cells).T

    def tracking_at(self, points: torch.Tensor) -> torch.Tensor:
        return sample_bilinear(self.tracking, points)


class LazyMaps(HeadMaps):
    """Sigma and T are computed from X where they are asked for.

    Args:
        heads: the network's heads.
        x: X (C4, h, w). heat_map: H(t-1) (1, h, w).
    """

    def __init__(
        self, heads: Heads, x, heat_map, offset, objectness, category_logits=None, valid=None
    ) -> None:
        super().__init__(offset, objectness, category_logits, valid)
        self.heads = heads
        self.x = F.pad(x, (1, 1, 1, 1))
        self.heat_map = heat_map
        self.with_heat_map: torch.Tensor | None = None

    def sigma_at(self, cells: torch.Tensor) -> torch.Tensor:
        return bandwidth(log_precision(self.heads.bandwidth.at(self.x, cells)))

    def tracking_at(self, points: torch.Tensor) -> torch.Tensor:
        if self.with_heat_map is None:
            drawn = F.pad(self.heat_map.to(self.x.dtype), (1, 1, 1, 1))
            self.with_heat_map = torch.cat([self.x, drawn])
        h, w = self.objectness.shape
        cells, weights = bilinear_corners(points, h, w)
        values = self.heads.tracking.at(self.with_heat_map, cells.flatten()).float()
        return (values.view(*cells.shape, 2) * weights[..., None]).sum(1)


def bilinear_corners(points: torch.Tensor, h: int, w: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The four cells round each point (N, 2) = (column, row) and their weights, both (N, 4)."""
    last = [w - 1, h - 1]
    columns, rows = (points[:, k].clamp(0, last[k]) for k in (0, 1))
    left, top = columns.floor(), rows.floor()
    right, bottom = (left + 1).clamp(max=w - 1), (top + 1).clamp(max=h - 1)
    fx, fy = (columns - left).float(), (rows - top).float()
    cells = torch.stack([top * w + left, top * w + right, bottom * w + left, bottom * w + right], 1)
    weights = torch.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy], 1)
    return cells.long(), weights
