"""The two phases of ``clustering`` for the CPU, on few cells: same bits, a fraction of the time.

At stride 4 a seed's proposal is looked for among the cells that x and y alone do not exclude. At
full size the map is cut into small blocks with known bounds of the embedding; a block whose bounds
exclude every cell is not looked into. NumPy, because at this size torch's cost per call exceeds the
arithmetic.

Letters: D embedding channels, P cells, B blocks of s * s cells.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

from .clustering import ClusterRules, Clusters, SigmaAt


def cluster_compact(
    embedding: torch.Tensor,
    objectness: torch.Tensor,
    sigma_at: SigmaAt,
    valid: torch.Tensor,
    rules: ClusterRules,
) -> Clusters:
    """Same arguments and result as ``cluster_on_device``, with present rows only, on the CPU."""
    scores, allowed = objectness.numpy().ravel(), valid.numpy().ravel()
    points = embedding.numpy().reshape(embedding.shape[0], -1)
    seeds = Seeds(len(points))
    cell = scores.argmax(keepdims=True)  # NumPy gives the first of equal values
    if not scores[cell[0]] > rules.min_score:
        return seeds.as_clusters(torch.tensor(-1).expand(objectness.shape), scores)
    labels = torch.full(objectness.shape, -1)
    owner = labels.numpy().ravel()
    within = CellWindow(points, allowed, rules.limit)
    extra = [1 / phi for phi in rules.extra_bandwidth]
    # Scores of cells that are in no proposal yet; all others hold -1.
    remaining = scores.copy()
    while (
        remaining[cell[0]] > rules.min_score
        and len(seeds.cells) < rules.max_seeds
        and len(seeds.rows) < rules.max_instances
    ):
        if allowed[cell[0]]:
            centre = points[:, cell[0]]
            sigma = sigma_at(torch.from_numpy(cell)).numpy()[0]
            inverse = np.array([*(1 / sigma), *extra], np.float32)
            inside = within(centre, inverse)
            free = inside[remaining.take(inside) >= 0]
            remaining[free] = -1
            if len(free) >= rules.min_area and len(free) >= rules.min_free * len(inside):
                owner[free] = len(seeds.rows)
                seeds.rows.append(len(seeds.cells))
            seeds.add(cell[0], centre, inverse)
        else:  # no cell outside the image may be a seed
            np.copyto(remaining, -1, where=~allowed)
        cell = remaining.argmax(keepdims=True)
    return seeds.as_clusters(labels, scores)


class Seeds:
    """The seeds that were tried, in order.

    Attributes:
        cells, centres, inverses: of each. rows: numbers of the accepted ones.
    """

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self.cells: list[int] = []
        self.centres: list[np.ndarray] = []
        self.inverses: list[np.ndarray] = []
        self.rows: list[int] = []

    def add(self, cell: int, centre: np.ndarray, inverse: np.ndarray) -> None:
        self.cells.append(cell)
        self.centres.append(centre)
        self.inverses.append(inverse)

    def as_clusters(self, labels: torch.Tensor, scores: np.ndarray) -> Clusters:
        cells, rows = np.array(self.cells, np.int64), np.array(self.rows, np.int64)
        centre, inverse = (
            torch.from_numpy(np.array(values, np.float32).reshape(-1, self.dimensions))
            for values in (self.centres, self.inverses)
        )
        return Clusters(
            cells=torch.from_numpy(cells),
            centre=centre,
            inverse=inverse,
            live=torch.ones(len(cells), dtype=torch.bool),
            labels=labels,
            rows=torch.from_numpy(rows),
            present=torch.ones(len(rows), dtype=torch.bool),
            scores=torch.from_numpy(scores[cells[rows]]),
        )


class CellWindow:
    """The cells near a seed: first those within reach in x and y, then by their exact distance.

    Args:
        points: float32 (D, P), the embedding.
        allowed: bool (P,), cells that may be in a proposal.
        limit: of the squared distance.
    """

    def __init__(self, points: np.ndarray, allowed: np.ndarray, limit: float) -> None:
        self.points, self.allowed = points, allowed
        self.x, self.y = points[:2]
        self.limit = np.float32(limit)
        self.reach = np.float32(math.sqrt(limit) * 1.00001)  # the margin covers rounding
        self.near, self.other = np.empty((2, points.shape[1]), bool)

    def __call__(self, centre: np.ndarray, inverse: np.ndarray) -> np.ndarray:
        """Return the cells, ascending, whose squared distance is below the limit.

        The sum is computed in the order of ``squared_distance``: the same float32 result.
        """
        reach = self.reach / inverse[:2]
        (x0, y0), (x1, y1) = centre[:2] - reach, centre[:2] + reach
        near, other = self.near, self.other
        np.greater_equal(self.x, x0, out=near)
        near &= np.less_equal(self.x, x1, out=other)
        near &= np.greater_equal(self.y, y0, out=other)
        near &= np.less_equal(self.y, y1, out=other)
        near &= self.allowed
        cells = near.nonzero()[0]
        deviation = self.points.take(cells, 1)
        deviation -= centre[:, None]
        deviation *= inverse[:, None]
        deviation *= deviation
        total = deviation[0]
        for square in deviation[1:]:
            total += square
        return cells[total < self.limit]


class CellBlocks:
    """An embedding in blocks of neighbouring cells, with the bounds of every block.

    Args:
        embedding: float32 (D, h, w).
        side: s, cells; a power of two.
    """

    def __init__(self, embedding: np.ndarray, side: int = 16) -> None:
        self.index = _block_index(*embedding.shape[-2:], side)
        # Cells added at the border lie infinitely far away.
        tiles = _tiles(embedding, side, np.inf)
        self.cells = _flatten(tiles)
        # Bounds of x and y; the free dimensions reject few cells.
        self.low = _reduce_tiles(tiles[:2], np.minimum)
        self.high = _reduce_tiles(tiles[:2], np.maximum)

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


def owners_within(embedding: torch.Tensor, clusters: Clusters, rules: ClusterRules) -> torch.Tensor:
    """``owners_at`` on the CPU: seeds behind the last accepted one cannot change the result."""
    size = tuple(embedding.shape[-2:])
    blocks = CellBlocks(embedding.numpy())
    row_of_seed = clusters.row_of_seed.tolist()
    labels = np.full(size[0] * size[1], -1, np.int64)
    untouched = np.ones(len(labels), bool)
    for k in range(max(clusters.rows.tolist(), default=-1) + 1):
        centre, inverse = clusters.centre[k].numpy(), clusters.inverse[k].numpy()
        inside = blocks.within(centre, inverse, rules.limit)
        labels[inside[untouched[inside]]] = row_of_seed[k]
        untouched[inside] = False
    return torch.from_numpy(labels).view(size)
