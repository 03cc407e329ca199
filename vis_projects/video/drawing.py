"""Overlays with colours that belong to ids: an object keeps its colour through the video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from ..structures import Frame, FrameResult
from ..structures.palette import id_colour


def draw_label_map(
    image: np.ndarray,
    label_map: np.ndarray,
    *,
    captions: Mapping[int, str] | None = None,
    alpha: float = 0.5,
) -> np.ndarray:
    """Blend the objects of a label map over an image.

    Args:
        image: RGB uint8 (H, W, 3).
        label_map: ids (H, W), 0 background.
        captions: text written on objects, by id.
        alpha: opacity of the fill.

    Returns:
        A new RGB uint8 image (H, W, 3).
    """
    ids = [int(i) for i in np.unique(label_map) if i != 0]
    palette = np.zeros((max(ids, default=0) + 1, 3), np.uint8)
    for i in ids:
        palette[i] = id_colour(i)
    inside = label_map > 0
    out = image.copy()
    fill = palette[label_map[inside]].astype(np.float32)
    out[inside] = (image[inside] * (1 - alpha) + fill * alpha).astype(np.uint8)
    for i in ids:
        mask = (label_map == i).astype(np.uint8)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(out, contours, -1, id_colour(i), max(1, round(min(mask.shape) / 240)))
        if captions and captions.get(i):
            _write(out, captions[i], _anchor(mask), id_colour(i))
    return out


def _anchor(mask: np.ndarray) -> tuple[int, int]:
    """The point deepest inside the mask: (x, y)."""
    distance = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), mask.shape)
    return int(x), int(y)


def _write(
    image: np.ndarray, text: str, centre: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    height, width = image.shape[:2]
    scale = max(0.35, min(height, width) / 900)
    font = cv2.FONT_HERSHEY_SIMPLEX
    (w, h), base = cv2.getTextSize(text, font, scale, 1)
    x = min(max(centre[0] - w // 2, 2), max(width - w - 2, 2))
    y = min(max(centre[1] + h // 2, h + 2), max(height - base - 2, h + 2))
    box = image[max(y - h - 3, 0) : y + base + 1, max(x - 3, 0) : x + w + 3]
    box[:] = (box * 0.35).astype(np.uint8)
    bright = tuple(int(128 + c / 2) for c in colour)
    cv2.putText(image, text, (x, y), font, scale, bright, 1, cv2.LINE_AA)


def draw_frame(
    frame: Frame,
    result: FrameResult,
    *,
    image_format: str = "BGR",
    class_names: Sequence[str] | None = None,
    show_scores: bool = True,
    alpha: float = 0.5,
) -> np.ndarray:
    """Draw a frame's result: an RGB uint8 image (H, W, 3)."""
    image = frame.array()
    if image_format == "BGR":
        image = np.ascontiguousarray(image[..., ::-1])
    instances = result.instances
    columns = (instances.pred_ids, instances.pred_classes, instances.scores)
    captions = {}
    for i, category, score in zip(*(c.tolist() for c in columns)):
        named = class_names is not None and category < len(class_names)
        parts = [class_names[category] if named else f"{i}"]
        if show_scores and score < 1:
            parts.append(f"{100 * score:.0f}")
        captions[i] = " ".join(parts)
    return draw_label_map(image, result.label_map().cpu().numpy(), captions=captions, alpha=alpha)
