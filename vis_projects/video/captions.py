"""Captions on frames: readable at every size, off the objects and off each other.

A caption looks for its place on a coarse grid over the frame. In this order it avoids other
captions (never given up: a caption without a free place is left out), objects, distance from its
own object, and distance from where it was in the last frame, so that it does not jump.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import find_objects

Rect = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom exclusive

# Weights of the search, per pixel of distance and per share of the caption that covers an object
# (chosen): an object half covered is worse than half a frame of distance.
_COVER, _AWAY, _JUMP = 4.0, 1.0, 0.35


@dataclass(frozen=True)
class Caption:
    """One caption in its place.

    Attributes:
        text: what it says.
        rect: its box.
        anchor: the point of its object that it belongs to, (x, y).
        beside: it touches the box of its object, so that it needs no line to it.
        colour: RGB of its object.
    """

    text: str
    rect: Rect
    anchor: tuple[int, int]
    colour: tuple[int, int, int]
    beside: bool


def font_size(rows: int) -> int:
    """Return the height of captions in pixels: a thirtieth of the frame, at least 13."""
    return max(13, round(rows / 30))


@lru_cache(maxsize=8)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which comes with matplotlib and has most alphabets."""
    import matplotlib

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(file), size)


def text_colours(
    colour: tuple[int, int, int],
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return text and background of an object's caption: white or black on its colour, whichever
    has the larger contrast (WCAG 2.1; at least 4.6 for any colour)."""
    light = luminance(colour)
    white, black = contrast(1.0, light), contrast(light, 0.0)
    return ((255, 255, 255) if white > black else (0, 0, 0)), colour


def luminance(colour: tuple[int, int, int]) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.1), 0 to 1."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.divide(colour, 255)
    ]
    return float(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])


def contrast(lighter: float, darker: float) -> float:
    """Contrast ratio of two luminances (WCAG 2.1), 1 to 21."""
    return (lighter + 0.05) / (darker + 0.05)


@dataclass
class CaptionPlacer:
    """Finds the places of a video's captions, frame by frame.

    Attributes:
        last: where each id's caption was, relative to its object.
    """

    last: dict[int, tuple[float, float]] = field(default_factory=dict)

    def place(
        self,
        label_map: np.ndarray,
        captions: Mapping[int, str],
        colours: Mapping[int, tuple[int, int, int]],
    ) -> list[Caption]:
        """Place the captions of a frame; large objects choose first.

        Args:
            label_map: ids (H, W) of the drawn frame, 0 background.
            captions: text by id; ids without a pixel are left out.
            colours: RGB by id.
        """
        rows, columns = label_map.shape
        size = font_size(rows)
        # Coarse enough for hundreds of captions, fine enough that a caption is several cells high.
        cell = max(2, size // 4)
        covered = _coarse(label_map > 0, cell)
        objects = _integral(covered)
        taken = np.zeros(covered.shape, np.float32)
        placed: list[Caption] = []
        found = [
            (i, *_extent(label_map, box, i))
            for i, box in boxes_of(label_map).items()
            if i in captions
        ]
        for i, _, box, anchor in sorted(found, key=lambda f: -f[1]):
            text = captions[i]
            left, top, right, bottom = font(size).getbbox(text)
            width, height = int(right - left) + size // 2, int(size * 1.35)
            place = self._best(objects, _integral(taken), (width, height), box, cell, i)
            if place is None:
                continue
            x, y = min(place[0], max(columns - width, 0)), min(place[1], max(rows - height, 0))
            rect = (x, y, min(x + width, columns), min(y + height, rows))
            beside = _gap(rect, box) <= size // 2
            placed.append(Caption(text, rect, anchor, colours[i], beside))
            self.last[i] = (x - box[0], y - box[1])
            taken[rect[1] // cell : -(-rect[3] // cell), rect[0] // cell : -(-rect[2] // cell)] = 1
        return placed

    def _best(
        self,
        objects: np.ndarray,
        taken: np.ndarray,
        size: tuple[int, int],
        box: Rect,
        cell: int,
        object_id: int,
    ) -> tuple[int, int] | None:
        """The best top left corner, None if every place is taken by captions."""
        width, height = -(-size[0] // cell), -(-size[1] // cell)
        rows, columns = objects.shape[0] - 1 - height, objects.shape[1] - 1 - width
        if rows < 0 or columns < 0:  # the frame is narrower than the caption
            rows, columns = max(rows, 0), max(columns, 0)
            height = min(height, objects.shape[0] - 1)
            width = min(width, objects.shape[1] - 1)
        y = np.arange(rows + 1)[:, None]
        x = np.arange(columns + 1)[None, :]
        cover = _sums(objects, y, x, height, width) / (height * width)
        free = _sums(taken, y, x, height, width) == 0
        if not free.any():
            return None
        px, py = x * cell, y * cell
        # Distance between the caption's box and the object's, in both directions.
        dx = np.maximum(np.maximum(box[0] - (px + size[0]), px - box[2]), 0)
        dy = np.maximum(np.maximum(box[1] - (py + size[1]), py - box[3]), 0)
        unit = objects.shape[0] * cell  # the frame's height
        cost = _COVER * cover + _AWAY * np.hypot(dx, dy) / unit * 4
        if object_id in self.last:
            lx, ly = self.last[object_id]
            cost = cost + _JUMP * np.hypot(px - box[0] - lx, py - box[1] - ly) / unit * 4
        else:  # first choice: above the object, at its left edge
            cost = cost + _JUMP * np.hypot(px - box[0], py + size[1] - box[1]) / unit
        cost = np.where(free, cost, np.inf)
        row, column = np.unravel_index(int(cost.argmin()), cost.shape)
        return int(column * cell), int(row * cell)


def _gap(a: Rect, b: Rect) -> float:
    """Distance between two boxes; 0 where they touch."""
    dx = max(a[0] - b[2], b[0] - a[2], 0)
    dy = max(a[1] - b[3], b[1] - a[3], 0)
    return float(np.hypot(dx, dy))


def _coarse(mask: np.ndarray, cell: int) -> np.ndarray:
    """Share of a cell that is covered, for cells of about ``cell`` x ``cell`` pixels."""
    rows, columns = (-(-n // cell) for n in mask.shape)
    small = cv2.resize(mask.view(np.uint8) * 255, (columns, rows), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / 255


def _integral(values: np.ndarray) -> np.ndarray:
    return cv2.integral(values.astype(np.float32), sdepth=cv2.CV_64F)


def _sums(integral: np.ndarray, y: np.ndarray, x: np.ndarray, height: int, width: int):
    """Sums over all boxes of one size."""
    return (
        integral[y + height, x + width]
        - integral[y, x + width]
        - integral[y + height, x]
        + integral[y, x]
    ).round(6)


def boxes_of(label_map: np.ndarray) -> dict[int, Rect]:
    """Return the boxes of all ids of a label map (H, W), in ascending order."""
    labels = label_map if label_map.dtype == np.int32 else label_map.astype(np.int32)
    if labels.max(initial=0) > 1 << 16:  # far apart: number them closely first
        ids, labels = np.unique(labels, return_inverse=True)
        labels = labels.reshape(label_map.shape) + (ids[0] != 0)
        ids = ids if ids[0] == 0 else np.concatenate([[0], ids])
    else:
        ids = np.arange(labels.max(initial=0) + 1)
    return {
        int(ids[number]): (where[1].start, where[0].start, where[1].stop, where[0].stop)
        for number, where in enumerate(find_objects(labels), 1)
        if where is not None
    }


def crop(label_map: np.ndarray, box: Rect, object_id: int) -> np.ndarray:
    """Return an object's mask within its box as uint8."""
    left, top, right, bottom = box
    return (label_map[top:bottom, left:right] == object_id).view(np.uint8)


def _extent(label_map: np.ndarray, box: Rect, object_id: int) -> tuple[int, Rect, tuple[int, int]]:
    """Area, box and deepest point of an object."""
    inside = crop(label_map, box, object_id)
    step = max(1, min(inside.shape) // 64)  # a point near the deepest is good enough
    small = np.pad(np.ascontiguousarray(inside[::step, ::step]), 1)
    distance = cv2.distanceTransform(small, cv2.DIST_L2, 3)[1:-1, 1:-1]
    row, column = np.unravel_index(int(distance.argmax()), distance.shape)
    anchor = (box[0] + int(column) * step, box[1] + int(row) * step)
    return int(cv2.countNonZero(inside)), box, anchor


def draw_captions(image: np.ndarray, captions: list[Caption]) -> np.ndarray:
    """Draw captions on an RGB image (H, W, 3), with a line to objects that are not beside them."""
    if not captions:
        return image
    size = font_size(image.shape[0])
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    for caption in captions:
        left, top, right, bottom = caption.rect
        x, y = caption.anchor
        near = (min(max(x, left), right), min(max(y, top), bottom))
        if not caption.beside:
            draw.line([near, (x, y)], fill=(0, 0, 0), width=max(3, size // 5))
            draw.line([near, (x, y)], fill=caption.colour, width=max(1, size // 10))
    for caption in captions:
        text, background = text_colours(caption.colour)
        left, top, right, bottom = caption.rect
        draw.rounded_rectangle((left, top, right - 1, bottom - 1), size // 4, fill=background)
        middle = (left + size // 4, (top + bottom) / 2)
        draw.text(middle, caption.text, fill=text, font=font(size), anchor="lm")
    return np.array(canvas)
