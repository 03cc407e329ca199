"""The two phases of ``clustering`` for the CPU, on few cells: same bits, a fraction of the time.

Seeds can only lie where the objectness exceeds MIN_SCORE, so the search looks at these cells
alone. For proposals the map is cut into small blocks with known bounds of the embedding; a block
whose bounds exclude every cell is not looked into. NumPy, because at this size torch's cost per
call exceeds the arithmetic.

Letters: D embedding channels, P cells, B blocks of s * s cells, M candidates.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from .clustering import ClusterRules, Clusters, SigmaAt

_FREE, _REJECTED = -2, -1  # no seed's, a rejected seed's


def cluster_compact(
    embedding: torch.Tensor,
    objectness: torch.Tensor,
    sigma_at: SigmaAt,
    valid: torch.Tensor,
    rules: ClusterRules,
) -> Clusters:
    """Same arguments and result as ``cluster_on_device``, with present rows only, on the CPU."""
    size = tuple(objectness.shape)
    scores = objectness.flatten().numpy()
    allowed = valid.flatten().numpy()
    points = embedding.flatten(1).numpy()
    blocks = CellBlocks(embedding.numpy())
    blocks.exclude(np.flatnonzero(~allowed))
    extra = np.array([1 / phi for phi in rules.extra_bandwidth], np.float32)
    candidates = np.flatnonzero((scores > np.float32(rules.min_score)) & allowed)
    # Place of every cell among the candidates; all others share one more place at the end.
    place = np.full(len(scores), len(candidates), np.int32)
    place[candidates] = np.arange(len(candidates), dtype=np.int32)
    remaining = np.append(scores[candidates], np.float32(-1))
    cells, centres, inverses = [], [], []
    labels = np.full(len(scores), _FREE, np.int16)
    rows: list[int] = []
    while len(cells) < rules.max_seeds and len(rows) < rules.max_instances:
        best = int(remaining.argmax())  # NumPy gives the first of equal values
        if not remaining[best] > rules.min_score:
            break
        cell = int(candidates[best])
        sigma = sigma_at(torch.tensor([cell]))[0].numpy()
        inverse = np.concatenate([np.float32(1) / sigma, extra])
        centre = points[:, cell].copy()
        inside = blocks.within(centre, inverse, rules.limit)
        free = inside[labels.take(inside) == _FREE]
        remaining[place.take(free)] = -1
        if len(free) >= rules.min_area and len(free) >= rules.min_free * len(inside):
            labels[free] = len(rows)
            rows.append(len(cells))
        else:
            labels[free] = _REJECTED
        cells.append(cell)
        centres.append(centre)
        inverses.append(inverse)
    labels = np.maximum(labels, -1).astype(np.int64)
    return _as_clusters(cells, centres, inverses, rows, labels, scores, points.shape[0], size)


def _as_clusters(
    cells: list[int],
    centres: list[np.ndarray],
    inverses: list[np.ndarray],
    rows: list[int],
    labels: np.ndarray,
    scores: np.ndarray,
    channels: int,
    size: tuple[int, int],
) -> Clusters:
    seeds = torch.tensor(cells, dtype=torch.int64)
    chosen = torch.tensor(rows, dtype=torch.int64)
    shape = (len(cells), channels)
    return Clusters(
        cells=seeds,
        centre=torch.from_numpy(np.array(centres, np.float32).reshape(shape)),
        inverse=torch.from_numpy(np.array(inverses, np.float32).reshape(shape)),
        live=torch.ones(len(cells), dtype=torch.bool),
        labels=torch.from_numpy(labels).view(size),
        rows=chosen,
        present=torch.ones(len(rows), dtype=torch.bool),
        scores=torch.from_numpy(scores)[seeds[chosen]],
    )


class CellBlocks:
    """An embedding in blocks of neighbouring cells, with the bounds of every block.

    Args:
        embedding: float32 (D, h, w).
        side: s, cells; a power of two.
    """

    def __init__(self, embedding: np.ndarray, side: int = 8) -> None:
        self.size = (*embedding.shape[-2:], side)
        self.index = _block_index(*self.size)
        # Cells added at the border lie infinitely far away.
        tiles = _tiles(embedding, side, np.inf)
        self.cells = _flatten(tiles)
        # Bounds of x and y; the free dimensions reject few cells.
        self.low = _reduce_tiles(tiles[:2], np.minimum)
        self.high = _reduce_tiles(tiles[:2], np.maximum)

    def exclude(self, cells: np.ndarray) -> None:
        """Put some cells, flat indices, infinitely far away: they are in no proposal."""
        if len(cells):
            self.cells[0].reshape(-1)[_place_in_blocks(*self.size)[cells]] = np.inf

    def within(self, centre: np.ndarray, inverse: np.ndarray, limit: float) -> np.ndarray:
        """Flat indices, in no order, of the cells whose squared distance is below ``limit``.

        The sum is computed in the order of ``squared_distance``: the same float32 result.
        """
        reach = np.float32(np.sqrt(limit) * 1.00001) / inverse  # the margin covers rounding
        (x0, y0), (x1, y1) = (centre - reach)[:2], (centre + reach)[:2]
        (low_x, low_y), (high_x, high_y) = self.low, self.high
        near = (low_x <= x1) & (high_x >= x0) & (low_y <= y1) & (high_y >= y0)
        blocks = np.flatnonzero(near)
        total = None
        for k in range(len(centre)):
            deviation = self.cells[k].take(blocks, 0)
            deviation -= centre[k]
            deviation *= inverse[k]
            deviation *= deviation
            total = deviation if total is None else total + deviation
        return self.index.take(blocks, 0)[total < np.float32(limit)]


def _tiles(maps: np.ndarray, side: int, fill: float) -> np.ndarray:
    """View (D, h, w), padded to whole blocks, as (D, block rows, s, block columns, s)."""
    d, h, w = maps.shape
    bottom, right = -h % side, -w % side
    if bottom or right:
        maps = np.pad(maps, ((0, 0), (0, bottom), (0, right)), constant_values=fill)
    return maps.reshape(d, (h + bottom) // side, side, (w + right) // side, side)


def _flatten(tiles: np.ndarray) -> np.ndarray:
    """Reorder the result of ``_tiles`` to (D, B, s * s)."""
    side = tiles.shape[-1]
    return tiles.transpose(0, 1, 3, 2, 4).reshape(len(tiles), -1, side * side)


def _reduce_tiles(tiles: np.ndarray, operation: np.ufunc) -> np.ndarray:
    """Least or greatest value of each block, (D, B); NumPy is slow along short last axes."""
    values = operation.reduce(tiles, axis=2)
    while values.shape[-1] > 1:
        values = operation(values[..., ::2], values[..., 1::2])
    return values.reshape(len(tiles), -1)


@lru_cache(maxsize=8)
def _block_index(h: int, w: int, side: int) -> np.ndarray:
    """Flat cell index of each place in the blocks, (B, s * s)."""
    return _flatten(_tiles(np.arange(h * w).reshape(1, h, w), side, 0))[0]


@lru_cache(maxsize=8)
def _place_in_blocks(h: int, w: int, side: int) -> np.ndarray:
    """Inverse of ``_block_index``: where in the blocks each cell is, (h * w,)."""
    index = _flatten(_tiles(np.arange(1, h * w + 1).reshape(1, h, w), side, 0))[0].reshape(-1)
    places = np.empty(h * w + 1, np.int64)
    places[index] = np.arange(len(index))  # 0 collects the added cells
    return places[1:]


def owners_within(embedding: torch.Tensor, clusters: Clusters, rules: ClusterRules) -> torch.Tensor:
    """``owners_at`` on the CPU: seeds behind the last accepted one cannot change the result."""
    size = tuple(embedding.shape[-2:])
    blocks = CellBlocks(embedding.numpy(), side=16)
    row_of_seed = clusters.row_of_seed.tolist()
    labels = np.full(size[0] * size[1], -1, np.int64)
    untouched = np.ones(len(labels), bool)
    for k in range(max(clusters.rows.tolist(), default=-1) + 1):
        centre, inverse = clusters.centre[k].numpy(), clusters.inverse[k].numpy()
        inside = blocks.within(centre, inverse, rules.limit)
        labels[inside[untouched[inside]]] = row_of_seed[k]
        untouched[inside] = False
    return torch.from_numpy(labels).view(size)
