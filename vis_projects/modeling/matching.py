"""Label propagation by nearest neighbours in feature space.

Letters: C channels, h x w cells of the grid, P = h w, K labels (background first), M memory cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass
class Remembered:
    """A frame of the memory.

    Attributes:
        features: (C, h, w), see ``joint_features``.
        labels: the share of each label in each cell, (K, h, w), sum 1 over K.
    """

    features: Tensor
    labels: Tensor

    def with_labels(self, count: int) -> Remembered:
        """Return the frame with planes of zeros for labels that came later."""
        extra = count - len(self.labels)
        if extra <= 0:
            return self
        return Remembered(self.features, F.pad(self.labels, (0, 0, 0, 0, 0, extra)))

    def only(self, rows: Sequence[int]) -> Remembered:
        """Return the frame with these planes, 0 first; what the others had is background."""
        labels = self.labels[list(rows)]
        labels[0] += 1 - labels.sum(0)
        return Remembered(self.features, labels)


def joint_features(
    maps: Mapping[str, Tensor], levels: Sequence[str], weights: Sequence[float]
) -> Tensor:
    """Return (C, h, w): the maps (1, C_l, h_l, w_l) at the finest grid, one after the other.

    Each has unit length per cell, times its weight: the product of two cells is the weighted sum of
    their cosines (weights squared).
    """
    size = max((maps[level].shape[-2:] for level in levels), key=lambda s: s[0] * s[1])
    parts = []
    for level, weight in zip(levels, weights):
        x = maps[level].float()
        if x.shape[-2:] != size:
            x = F.interpolate(x, size, mode="bilinear", align_corners=False)
        parts.append(weight * F.normalize(x, dim=1))
    return torch.cat(parts, 1)[0]


def propagate(
    query: Tensor,
    references: Sequence[Remembered],
    previous: Remembered | None,
    *,
    top_k: int,
    sharpness: float,
    window: int = 0,
    chunk_mb: float = 32.0,
) -> Tensor:
    """Return the labels (K, h, w) of a frame.

    Every cell averages the labels of its ``top_k`` most similar cells of the memory, weighted by
    softmax(sharpness * similarity).

    Args:
        query: the frame's features (C, h, w).
        references: compared as a whole.
        previous: the frame before; with ``window`` > 0 only cells within so many rows and columns.
        chunk_mb: similarities held at once; changes nothing in the result.
    """
    _, h, w = query.shape
    fixed = torch.cat([r.features.flatten(1) for r in references], 1) if references else None
    labels = [r.labels.flatten(1) for r in references]
    if previous is not None:
        labels.append(previous.labels.flatten(1))
    labels = torch.cat(labels, 1)
    known = 0 if fixed is None else fixed.shape[1]
    width = known + (0 if previous is None else h * w)
    rows = max(min(int(chunk_mb * 2**20 / 4 / (w * width)), h), 1)
    columns = _window_bias(w, w, 0, window, query) if window else None
    out = []
    for top in range(0, h, rows):
        block = query[:, top : top + rows]
        count = block.shape[1]
        flat = block.flatten(1).T
        near = [] if fixed is None else [flat @ fixed]
        first = 0
        if previous is not None:
            first = max(top - window, 0) if window else 0
            last = min(top + count + window, h) if window else h
            similar = flat @ previous.features[:, first:last].flatten(1)
            if window:
                bias = _window_bias(count, last - first, first - top, window, query)
                planes = similar.view(count, w, last - first, w)
                planes += bias[:, None, :, None]
                planes += columns[None, :, None, :]
            near.append(similar)
        value, index = torch.cat(near, 1).topk(min(top_k, sum(n.shape[1] for n in near)), 1)
        index = torch.where(index >= known, index + first * w, index)
        share = torch.softmax(sharpness * value, 1)
        out.append((labels[:, index] * share).sum(-1).view(-1, count, w))
    return torch.cat(out, 1)


def _window_bias(cells: int, others: int, offset: int, window: int, like: Tensor) -> Tensor:
    """Return 0 where another cell (j + offset) lies within the window of cell i, else -inf."""
    i = torch.arange(cells, device=like.device)[:, None]
    j = torch.arange(others, device=like.device)[None] + offset
    bias = torch.zeros(cells, others, device=like.device, dtype=like.dtype)
    return bias.masked_fill_((i - j).abs() > window, float("-inf"))
