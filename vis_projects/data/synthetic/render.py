"""Draws a synthetic scene: integer arithmetic only, so the same pixels everywhere.

Letters: H rows, W columns.
"""

from __future__ import annotations

from functools import cache, lru_cache

import cv2
import numpy as np

from .polygon_fill import rim
from .scene import (
    BACKGROUNDS,
    CLASSES,
    SPRITE,
    TEXTURE_VARIANTS,
    Scene,
)

_TILE = 256  # side of a background tile at 96 x 160; a power of two, it repeats
_NOISE = 5  # grey levels of sensor noise
_EDGE_SHADE = 120  # of 256: an object's outline is darker
_EDGE = np.uint16(1 << 12)  # the bit of a sprite's code that says so


def render_frame(scene: Scene, t: int, *, split: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw frame t.

    Args:
        split: which bank of backgrounds, 0 for training and 1 for validation.

    Returns:
        the image, uint8 BGR (H, W, 3), and the visible ids, uint8 (H, W).
    """
    height, width = scene.options.size
    image = _background(scene, t, split)
    labels = np.zeros((height, width), np.uint8)
    edges = np.zeros((height, width), np.uint16)
    seen = []
    for i, shape in enumerate(scene.shapes(t), 1):
        windows = shape.windows((height, width))
        seen.append(None if windows is None else windows[0])
        if windows is not None:
            mask = shape.mask[windows[1]]
            labels[windows[0]][mask] = i
            outline = rim(shape.mask)[windows[1]] * _EDGE
            np.copyto(edges[windows[0]], outline, where=mask)
    maps = scene.texture_maps(t)
    for i, window in enumerate(seen):
        if window is None:
            continue
        inside = labels[window] == i + 1
        x = np.arange(window[1].start, window[1].stop)
        y = np.arange(window[0].start, window[0].stop)[:, None]
        (a, b, c), (d, e, f) = maps[i]
        column, row = _cells(a * x + (b * y + c)), _cells(d * x + (e * y + f))
        row *= SPRITE
        row += column
        code = _sprite(int(scene.categories[i]), int(scene.variants[i])).take(row)
        code |= edges[window]
        colours = _colour_table(scene, i).take(code, axis=0)
        np.copyto(image[window], colours, where=inside[..., None])
    noise = _noise(max(height, width))
    dy, dx = (37 * t + scene.seed) % 251, (91 * t + scene.seed) % 241
    image += noise[dy : dy + height, dx : dx + width]  # never overflows: colours keep off the ends
    return image, labels


def _cells(position: np.ndarray) -> np.ndarray:
    """Return the sprite's cells at positions in 2**-16 of them; overwrites its argument."""
    position >>= 16
    np.maximum(position, 0, out=position)
    return np.minimum(position, SPRITE - 1, out=position)  # np.clip takes thrice as long here


def _colour_table(scene: Scene, i: int) -> np.ndarray:
    """Return an object's colours by sprite code and outline bit, uint8 (2**13, 3)."""
    if i not in scene.colour_tables:
        dark, light = scene.colours[i]
        gradient = dark + (light - dark) * np.arange(256)[:, None] // 255
        shades = np.arange(1, 17) * 16
        shades = np.concatenate([shades, shades * _EDGE_SHADE >> 8])
        table = (gradient * shades[:, None, None]) >> 8
        table = np.clip(table, 2 * _NOISE, 255 - 2 * _NOISE)
        scene.colour_tables[i] = table.reshape(-1, 3).astype(np.uint8)
    return scene.colour_tables[i]


@cache
def _sprite(category: int, variant: int) -> np.ndarray:
    """Return a class's texture, uint16 (SPRITE, SPRITE): level in bits 0-7, shade in 8-11."""
    assert 0 <= variant < TEXTURE_VARIANTS
    v, u = np.mgrid[0:SPRITE, 0:SPRITE]
    centre = SPRITE // 2
    frequency = 6 + 2 * variant  # periods of the texture across the sprite

    def triangle(phase: np.ndarray) -> np.ndarray:
        """0..255..0 over one period of 512."""
        return 255 - np.abs(phase % 512 - 256) * 255 // 256

    across, down = u * frequency * 512 // SPRITE, v * frequency * 512 // SPRITE
    name = CLASSES[category]
    if name == "disc":  # stripes
        level = triangle(across)
    elif name == "box":  # chequers
        level = np.where((across // 256 + down // 256) % 2 == 0, 235, 30)
    elif name == "triangle":  # dots
        level = np.maximum(triangle(across) + triangle(down) - 255, 0) * 2
    else:  # rings
        radius = np.sqrt(((u - centre) ** 2 + (v - centre) ** 2).astype(np.float64)).astype(
            np.int64
        )
        level = triangle(radius * frequency * 512 // SPRITE)
    shade = 250 - (u + 2 * v) * 66 // (3 * SPRITE)
    return (np.clip(level, 0, 255) | (shade // 16 << 8)).astype(np.uint16)


def _background(scene: Scene, t: int, split: int) -> np.ndarray:
    height, width = scene.options.size
    scale = 1 << max(int(np.ceil(np.log2(scene.options.unit))), 0)
    mirrored = bool(scene.mirrored[0]), bool(scene.mirrored[1])
    tile = _mirrored_tile(split, scene.background, scale, mirrored)
    side = len(tile)
    down, right = (int(n) & (side - 1) for n in scene.pan(t))
    patch = np.empty((height, width, 3), np.uint8)
    for y in range(-down, height, side):  # the tile repeats; the frame shows a few copies of it
        for x in range(-right, width, side):
            rows, columns = slice(max(y, 0), y + side), slice(max(x, 0), x + side)
            part = patch[rows, columns]
            top, left = max(-y, 0), max(-x, 0)
            part[:] = tile[top : top + part.shape[0], left : left + part.shape[1]]
    return cv2.LUT(patch, _tints(tuple(scene.tint.tolist())))


@lru_cache(maxsize=64)
def _tints(tint: tuple[int, int, int]) -> np.ndarray:
    """Return what a tint in 256ths makes of every grey level, uint8 (1, 256, 3)."""
    return (np.arange(256)[None, :, None] * np.array(tint) >> 8).astype(np.uint8)


@lru_cache(maxsize=4 * BACKGROUNDS)
def _mirrored_tile(split: int, index: int, scale: int, mirrored: tuple[bool, bool]) -> np.ndarray:
    tile = _tile(split, index, scale)
    rows, columns = (slice(None, None, -1 if flip else 1) for flip in mirrored)
    return np.ascontiguousarray(tile[rows, columns])


@lru_cache(maxsize=4 * BACKGROUNDS)
def _tile(split: int, index: int, scale: int) -> np.ndarray:
    """Return a periodic cloud texture, uint8 (S, S, 3) with S = 256 * scale."""
    random = np.random.RandomState(7000 + 100 * split + index)
    side = _TILE * scale
    cells = [(4, 90), (8, 70), (16, 50), (32, 40), (64, 20)]  # cells per side, strength
    if index % 2:
        cells = [(4, 60), (8, 50), (32, 70), (64, 50)]
    total = sum(strength for _, strength in cells)
    common = sum(s * _periodic_noise(random, n, side) for n, s in cells) // total
    chroma = np.stack([_periodic_noise(random, 8, side) for _ in range(3)], -1)
    tile = (3 * common[..., None] + chroma) // 4
    low, high = int(tile.min()), int(tile.max())
    return (30 + (tile - low) * 190 // (high - low)).astype(np.uint8)


def _periodic_noise(random: np.random.RandomState, cells: int, side: int) -> np.ndarray:
    """Return random values on a grid, enlarged bilinearly with wrap-around, int64 (side, side)."""
    grid = random.randint(0, 1024, (cells, cells)).astype(np.int64)
    step = side // cells
    index, part = np.divmod(np.arange(side), step)
    after = (index + 1) % cells
    rows = (grid[index] * (step - part)[:, None] + grid[after] * part[:, None]) // step
    return (rows[:, index] * (step - part) + rows[:, after] * part) // step


@lru_cache(maxsize=2)
def _noise(side: int) -> np.ndarray:
    """Return a field of noise in [-5, 5] as wrapping uint8, large enough for any offset."""
    random = np.random.RandomState(4242)
    values = random.randint(-_NOISE, _NOISE + 1, (side + 256, side + 256, 3))
    return values.astype(np.int8).view(np.uint8)
