"""Filling polygons in exact integer arithmetic: the same pixels with every library version.

Letters: N polygons, V vertices. Coordinates are fixed point, in 2**-shift pixels; pixel (row 0,
column 0) has its centre at one half.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FilledPolygon:
    """The pixels of one polygon.

    Attributes:
        mask: bool (h, w), just large enough; empty if the polygon covers no pixel centre.
        top, left: the frame's row and column of ``mask[0, 0]``, possibly negative.
    """

    mask: np.ndarray
    top: int
    left: int

    def windows(
        self, size: tuple[int, int]
    ) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
        """Return where the part inside a frame (H, W) lies in frame and ``mask``, or None."""
        parts = []
        for start, count, limit in zip((self.top, self.left), self.mask.shape, size):
            low, high = max(start, 0), min(start + count, limit)
            if high <= low:
                return None
            parts.append((slice(low, high), slice(low - start, high - start)))
        return (parts[0][0], parts[1][0]), (parts[0][1], parts[1][1])


def fill_polygons(polygons: np.ndarray, shift: int) -> list[FilledPolygon]:
    """Fill polygons by the even-odd rule at pixel centres.

    Args:
        polygons: integers (N, V, 2), x and y.

    For each edge the rows that it crosses are listed and the first pixel centre at or right of
    the crossing is found by integer division; parity along the row does the rest.
    """
    count = len(polygons)
    one, half = 1 << shift, (1 << shift) >> 1
    start = polygons.astype(np.int64).reshape(-1, 2)
    end = np.roll(polygons, -1, axis=1).astype(np.int64).reshape(-1, 2)
    x, y = start[:, 0], start[:, 1]
    dx, dy = (end - start).T
    first = (np.minimum(y, end[:, 1]) - half + one - 1) >> shift
    rows = ((np.maximum(y, end[:, 1]) - half + one - 1) >> shift) - first
    edge = np.repeat(np.arange(len(x)), rows)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(rows) - rows, rows) + first[edge]
    x, y, dx, dy = x[edge], y[edge], dx[edge], dy[edge]
    sign = np.where(dy < 0, -1, 1)
    numerator = (x * dy + (row * one + half - y) * dx) * sign
    dy *= sign
    column = -((half * dy - numerator) // (one * dy))
    crossings = rows.reshape(count, -1).sum(1)
    filled, done = [], 0
    for n in crossings:
        filled.append(_by_parity(row[done : done + n], column[done : done + n]))
        done += n
    return filled


def _by_parity(row: np.ndarray, column: np.ndarray) -> FilledPolygon:
    if len(row) == 0:
        return FilledPolygon(np.zeros((0, 0), bool), 0, 0)
    top, left = int(row.min()), int(column.min())
    height, width = int(row.max()) - top + 1, int(column.max()) - left + 1
    cells = (row - top) * width + (column - left)
    toggles = np.bincount(cells, minlength=height * width).astype(np.uint8)
    inside = np.bitwise_xor.accumulate(toggles.reshape(height, width) & 1, axis=1)
    return FilledPolygon(inside[:, :-1].view(bool), top, left)


def rim(mask: np.ndarray) -> np.ndarray:
    """Return the pixels of a mask (h, w) that have a 4-neighbour outside it."""
    out = mask.copy()
    out[1:-1, 1:-1] &= ~(mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:])
    return out
