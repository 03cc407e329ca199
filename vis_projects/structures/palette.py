"""The colours of ids: one palette for overlays, indexed PNGs, pages and reports."""

from __future__ import annotations

import colorsys


def id_colour(object_id: int) -> tuple[int, int, int]:
    """Return the RGB colour of an id: golden-ratio steps in hue, so neighbours differ well."""
    hue = object_id * 0.618033988749895 % 1.0
    saturation = (0.78, 0.92, 0.63)[object_id // 3 % 3]
    value = (1.0, 0.85, 0.93)[object_id % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def id_palette() -> list[int]:
    """Return 256 x (red, green, blue) in one list, black for the background."""
    return [channel for i in range(256) for channel in (id_colour(i) if i else (0, 0, 0))]
