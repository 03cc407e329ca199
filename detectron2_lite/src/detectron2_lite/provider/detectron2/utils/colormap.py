"""Colours that can be told apart."""

from __future__ import annotations

import colorsys

import numpy as np

__all__ = ["colormap", "random_color", "random_colors"]

_COUNT = 80
_GOLDEN_ANGLE = 0.6180339887498949  # of a turn: successive hues lie far apart


def _palette() -> np.ndarray:
    """Return _COUNT colours (_COUNT, 3), RGB in [0, 1]; neighbours differ in hue and brightness."""
    levels = ((0.90, 0.95), (0.65, 1.00), (1.00, 0.70), (0.45, 0.90))  # saturation, value
    return np.array(
        [colorsys.hsv_to_rgb(i * _GOLDEN_ANGLE % 1.0, *levels[i % 4]) for i in range(_COUNT)],
        dtype=np.float32,
    )


_COLORS = _palette()


def colormap(rgb: bool = False, maximum: int = 255) -> np.ndarray:
    """Return the colours as float32 (_COUNT, 3), BGR unless ``rgb``; ``maximum`` is 255 or 1."""
    assert maximum in (1, 255), maximum
    colors = _COLORS * maximum
    return colors if rgb else colors[:, ::-1]


def random_color(rgb: bool = False, maximum: int = 255) -> np.ndarray:
    """Return one of the colours (3,), drawn from NumPy's global generator."""
    return colormap(rgb, maximum)[np.random.randint(_COUNT)]


def random_colors(N: int, rgb: bool = False, maximum: int = 255) -> list[np.ndarray]:
    """Return N different colours (N up to _COUNT) in random order."""
    return list(colormap(rgb, maximum)[np.random.choice(_COUNT, N, replace=False)])
