"""Overlays with colours that belong to ids: an object keeps its colour through the video."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from PIL import Image, ImageDraw

from ..structures import Frame, FrameResult
from ..structures.palette import id_colour
from .captions import CaptionPlacer, boxes_of, crop, draw_captions, font, font_size

MIN_ROWS = 480  # smaller frames are enlarged before anything is drawn on them


def enlarge(
    image: np.ndarray, label_map: np.ndarray, min_rows: int = MIN_ROWS
) -> tuple[np.ndarray, np.ndarray]:
    """Bring a small frame and its label map to at least ``min_rows`` rows."""
    if label_map.shape[0] >= min_rows:
        return image, label_map
    return to_rows(image, label_map, min_rows)


def to_rows(image: np.ndarray, label_map: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Bring a frame and its label map to ``rows`` rows, larger or smaller."""
    before, columns = label_map.shape
    size = (max(1, round(columns * rows / before)), rows)
    way = cv2.INTER_CUBIC if rows > before else cv2.INTER_AREA
    labels = cv2.resize(label_map.astype(np.int32), size, interpolation=cv2.INTER_NEAREST)
    return cv2.resize(image, size, interpolation=way), labels


def draw_label_map(
    image: np.ndarray,
    label_map: np.ndarray,
    *,
    captions: Mapping[int, str] | None = None,
    alpha: float = 0.45,
    placer: CaptionPlacer | None = None,
) -> np.ndarray:
    """Blend the objects of a label map over an image.

    Args:
        image: RGB uint8 (H, W, 3).
        label_map: ids (H, W), 0 background.
        captions: text beside the objects, by id.
        alpha: opacity of the fill.
        placer: remembers the captions of the last frame; without it every frame is on its own.

    Returns:
        A new RGB uint8 image (H, W, 3).
    """
    boxes = boxes_of(label_map)
    colours = {i: id_colour(i) for i in boxes}
    out = image.copy()
    thickness = max(1, round(min(label_map.shape) / 320))
    for i, (left, top, right, bottom) in boxes.items():
        mask = crop(label_map, (left, top, right, bottom), i)
        part = image[top:bottom, left:right]
        tint = cv2.addWeighted(part, 1 - alpha, np.full_like(part, colours[i]), alpha, 0)
        cv2.copyTo(tint, mask, out[top:bottom, left:right])
    for i, box in boxes.items():
        mask = crop(label_map, box, i)
        contours, _ = cv2.findContours(
            mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=box[:2]
        )
        # A dark line around the bright one: seen on every ground.
        cv2.drawContours(out, contours, -1, (0, 0, 0), 3 * thickness, cv2.LINE_AA)
        cv2.drawContours(out, contours, -1, colours[i], thickness, cv2.LINE_AA)
    return _captioned(out, label_map, captions or {}, placer or CaptionPlacer())


def _captioned(
    image: np.ndarray, label_map: np.ndarray, captions: Mapping[int, str], placer: CaptionPlacer
) -> np.ndarray:
    if not captions:
        return image
    colours = {i: id_colour(i) for i in boxes_of(label_map)}
    return draw_captions(image, placer.place(label_map, captions, colours))


@dataclass
class OverlayPainter:
    """Draws a video's frames; captions and trails remember the frames before.

    Attributes:
        image_format: channel order of the frames that come.
        class_names: names of the categories; without them captions hold ids alone.
        show_scores: per cent behind the name, where below 100.
        boxes: also draw the boxes of the masks.
        trails: also draw the way of each object's centre over this many frames (0: none).
        ids_only: captions hold the id alone.
        alpha: opacity of the fill.
        rows: of the drawn frames, for small pictures whose captions are to be read; 0: the frames'
            own, at least ``MIN_ROWS``.
    """

    image_format: str = "BGR"
    class_names: Sequence[str] | None = None
    show_scores: bool = True
    boxes: bool = False
    trails: int = 0
    ids_only: bool = False
    alpha: float = 0.45
    rows: int = 0
    _placer: CaptionPlacer = field(default_factory=CaptionPlacer)
    _ways: dict[int, deque] = field(default_factory=dict)

    def draw(self, frame: Frame, result: FrameResult) -> np.ndarray:
        """Draw one frame: an RGB uint8 image of ``rows`` rows, or at least ``MIN_ROWS``."""
        image = frame.array()
        if self.image_format == "BGR":
            image = np.ascontiguousarray(image[..., ::-1])
        labels = result.label_map().cpu().numpy()
        change = to_rows if self.rows else enlarge
        image, labels = change(image, labels, self.rows or MIN_ROWS)
        image = draw_label_map(image, labels, alpha=self.alpha)
        if self.boxes or self.trails:
            image = self._more(image, labels)
        return _captioned(image, labels, self.captions(result), self._placer)  # above all lines

    def captions(self, result: FrameResult) -> dict[int, str]:
        """Return the text of every object: class name, id, score."""
        instances = result.instances
        columns = (instances.pred_ids, instances.pred_classes, instances.scores)
        return {
            i: self._caption(i, category, score)
            for i, category, score in zip(*(c.tolist() for c in columns))
        }

    def _caption(self, object_id: int, category: int, score: float) -> str:
        if self.ids_only:
            return str(object_id)
        named = self.class_names is not None and category < len(self.class_names)
        parts = [str(self.class_names[category])] if named else []
        parts.append(str(object_id))
        if self.show_scores and score < 1:
            parts.append(f"{100 * score:.0f}%")
        return " ".join(parts)

    def _more(self, image: np.ndarray, labels: np.ndarray) -> np.ndarray:
        image = np.ascontiguousarray(image)
        thickness = max(1, round(min(labels.shape) / 320))
        for i, (x, y, right, bottom) in boxes_of(labels).items():
            width, height = right - x, bottom - y
            if self.boxes:
                corner = (x + width - 1, y + height - 1)
                cv2.rectangle(image, (x, y), corner, id_colour(i), thickness)
            if self.trails:
                way = self._ways.setdefault(i, deque(maxlen=self.trails))
                way.append((x + width // 2, y + height // 2))
                points = np.array(way, np.int32)[:, None]
                cv2.polylines(image, [points], False, (0, 0, 0), 3 * thickness, cv2.LINE_AA)
                cv2.polylines(image, [points], False, id_colour(i), thickness, cv2.LINE_AA)
        return image


def draw_frame(
    frame: Frame,
    result: FrameResult,
    *,
    image_format: str = "BGR",
    class_names: Sequence[str] | None = None,
    show_scores: bool = True,
    alpha: float = 0.45,
) -> np.ndarray:
    """Draw one frame by itself; see ``OverlayPainter`` for videos."""
    painter = OverlayPainter(image_format, class_names, show_scores, alpha=alpha)
    return painter.draw(frame, result)


def side_by_side(left: np.ndarray, right: np.ndarray, titles: tuple[str, str]) -> np.ndarray:
    """Join two RGB images of one size under a line of titles."""
    size = font_size(left.shape[0])
    gap = np.full((left.shape[0], max(2, size // 4), 3), 255, np.uint8)
    picture = np.concatenate([left, gap, right], axis=1)
    head = Image.new("RGB", (picture.shape[1], round(1.6 * size)), (255, 255, 255))
    draw = ImageDraw.Draw(head)
    for x, title in zip((0, left.shape[1] + gap.shape[1]), titles):
        draw.text((x + size // 2, head.height / 2), title, (0, 0, 0), font(size), anchor="lm")
    return np.concatenate([np.asarray(head), picture])
