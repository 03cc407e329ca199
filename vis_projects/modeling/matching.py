"""Label propagation by nearest neighbours in feature space.

Letters: C channels, h x w cells of the grid, P = h w, K labels (background first), M memory cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_CACHE_MB = 2.0


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
    """Return ``joint_maps`` of one image, (C, h, w)."""
    return joint_maps(maps, levels, weights)[0]


def joint_maps(
    maps: Mapping[str, Tensor], levels: Sequence[str], weights: Sequence[float]
) -> Tensor:
    """Return (B, C, h, w): the maps (B, C_l, h_l, w_l) at the finest grid, one after the other.

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
    return torch.cat(parts, 1)


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
    whole = list(references)
    near = previous if window else None
    if previous is not None and near is None:
        whole.append(previous)
    known = [r.labels.flatten(1) for r in whole]
    found = []
    if whole:
        fixed = torch.cat([r.features.flatten(1) for r in whole], 1)
        found.append(_nearest(query, fixed, top_k, chunk_mb))
    if near is not None:
        value, index = _nearest_in_window(query, near.features, top_k, window)
        found.append((value, index + sum(k.shape[1] for k in known)))
        known.append(near.labels.flatten(1))
    value, index = (torch.cat(part, 1) for part in zip(*found))
    if len(found) > 1:
        value, at = value.topk(min(top_k, value.shape[1]), 1)
        index = index.gather(1, at)
    share = torch.softmax(sharpness * value, 1)
    labels = torch.cat(known, 1)[:, index] * share
    return labels.sum(-1).view(-1, *query.shape[1:])


def _nearest(query: Tensor, fixed: Tensor, top_k: int, chunk_mb: float) -> tuple[Tensor, Tensor]:
    """Return the most similar of M cells (C, M) for each cell of a query (C, h, w): similarities
    and indices (P, k)."""
    _, h, w = query.shape
    if query.device.type == "cpu":  # what fits in a core's cache is read again from there
        chunk_mb = min(chunk_mb, _CACHE_MB)
    rows = max(min(int(chunk_mb * 2**20 / 4 / (w * fixed.shape[1])), h), 1)
    found = [
        top_columns(query[:, top : top + rows].flatten(1).T @ fixed, top_k)
        for top in range(0, h, rows)
    ]
    value, index = (torch.cat(part) for part in zip(*found))
    return value, index


def top_columns(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the largest values (N, k) of each row of x (N, M) and their columns.

    What ``topk`` gives, several times faster for long rows: the k largest values lie in the k
    groups of columns with the largest maxima.
    """
    width = x.shape[1]
    size = int((width / count) ** 0.5)
    groups = width // max(size, 1)
    if size < 4 or groups < count:
        return x.topk(min(count, width), 1)
    grouped = x[:, : size * groups].unflatten(1, (size, groups))
    best = grouped.amax(1).topk(count, 1).indices
    steps = groups * torch.arange(size, device=x.device)
    columns = (best[:, None] + steps[:, None]).flatten(1)
    rest = torch.arange(size * groups, width, device=x.device).expand(len(x), -1)
    columns = torch.cat([columns, rest], 1)
    value, at = x.gather(1, columns).topk(count, 1)
    return value, columns.gather(1, at)


def _nearest_in_window(
    query: Tensor, features: Tensor, top_k: int, window: int
) -> tuple[Tensor, Tensor]:
    """As ``_nearest``, but of features (C, h, w) within so many rows and columns.

    It goes through single rows of cells, whose windows are whole rows: only columns are masked, and
    only among the maxima of columns.
    """
    _, h, w = query.shape
    at = torch.arange(w, device=query.device)
    outside = torch.zeros(w, w, device=query.device, dtype=query.dtype)
    outside.masked_fill_((at[:, None] - at).abs() > window, float("-inf"))
    values, indices = [], []
    for row in range(h):
        first, last = max(row - window, 0), min(row + window + 1, h)
        similar = query[:, row].T @ features[:, first:last].flatten(1)
        similar = similar.view(w, last - first, w)
        best, column = (similar.amax(1) + outside).topk(min(top_k, w), 1)
        chosen = similar.gather(2, column[:, None].expand(-1, last - first, -1))
        chosen = torch.where(best[:, None].isneginf(), best[:, None], chosen).flatten(1)
        value, at = chosen.topk(min(top_k, chosen.shape[1]), 1)
        steps = at.div(column.shape[1], rounding_mode="floor")
        values.append(value)
        indices.append((first + steps) * w + column.gather(1, at % column.shape[1]))
    return torch.cat(values), torch.cat(indices)
