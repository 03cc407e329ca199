"""Exact polygon filling against the definition, pixel by pixel in fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from vis_projects.data.synthetic.polygon_fill import fill_polygons, rim


def inside(polygon: np.ndarray, row: int, column: int, shift: int) -> bool:
    """Even-odd rule at the pixel's centre."""
    one = 1 << shift
    px, py = Fraction(2 * column + 1, 2) * one, Fraction(2 * row + 1, 2) * one
    odd = False
    for (x0, y0), (x1, y1) in zip(polygon.tolist(), np.roll(polygon, -1, 0).tolist()):
        if (y0 <= py) != (y1 <= py):
            crossing = x0 + (py - y0) * Fraction(x1 - x0, y1 - y0)
            odd ^= crossing <= px
    return odd


@pytest.mark.parametrize("seed", range(6))
def test_pixels_follow_the_definition(seed):
    shift = 4
    rng = np.random.default_rng(seed)
    polygons = rng.integers(-3 << shift, 12 << shift, (3, 7, 2))  # self-crossing, outside
    polygons[0] = polygons[0] >> shift << shift  # corners on pixel borders
    polygons[1] = (polygons[1] >> shift << shift) + 8  # corners on pixel centres
    for polygon, filled in zip(polygons, fill_polygons(polygons, shift)):
        frame = np.zeros((9, 9), bool)
        windows = filled.windows((9, 9))
        if windows is not None:
            frame[windows[0]] = filled.mask[windows[1]]
        wanted = [[inside(polygon, r, c, shift) for c in range(9)] for r in range(9)]
        assert np.array_equal(frame, wanted)


def test_areas_are_those_of_a_box_and_of_nothing():
    box = np.array([[[10, 20], [50, 20], [50, 60], [10, 60]]]) * 16
    filled = fill_polygons(box, 4)[0]
    assert filled.mask.all() and filled.mask.shape == (40, 40)
    assert (filled.top, filled.left) == (20, 10)
    assert filled.windows((15, 15)) is None
    nothing = fill_polygons(np.zeros((1, 4, 2), int), 4)[0]
    assert nothing.mask.size == 0 and nothing.windows((9, 9)) is None


def test_the_rim_is_what_erosion_takes_away():
    rng = np.random.default_rng(0)
    mask = rng.random((12, 15)) < 0.8
    for r in range(12):
        for c in range(15):
            around = [(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)]
            full = all(0 <= a < 12 and 0 <= b < 15 and mask[a, b] for a, b in around)
            assert rim(mask)[r, c] == (mask[r, c] and not full)
