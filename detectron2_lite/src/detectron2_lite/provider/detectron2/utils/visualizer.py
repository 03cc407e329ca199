"""Drawing boxes, masks and labels on an image.

Shapes: N objects, H, W the image's height and width in pixels. Colours are RGB in [0, 1] or what
matplotlib accepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, unique
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, BoxMode, PolygonMasks
from detectron2.structures import Instances as _Instances
from detectron2.utils._canvas import GenericMask, VisImage
from detectron2.utils.colormap import random_color

__all__ = ["ColorMode", "GenericMask", "VisImage", "Visualizer"]

_SMALL_OBJECT = 1000  # square pixels; below it the label stands beside the box


@unique
class ColorMode(Enum):
    """How objects get their colours."""

    IMAGE = 0  # a random colour for every object
    SEGMENTATION = 1  # the class' colour, if the metadata has `thing_colors`
    IMAGE_BW = 2  # as IMAGE, and everything without a mask is grey


class Visualizer:
    """Draws predictions or annotations on one image; the drawing collects in ``output``."""

    def __init__(
        self,
        img_rgb: np.ndarray,
        metadata: Any = None,
        scale: float = 1.0,
        instance_mode: ColorMode = ColorMode.IMAGE,
    ) -> None:
        self.img = np.asarray(img_rgb).clip(0, 255).astype(np.uint8)
        if metadata is None:
            from detectron2.data.catalog import Metadata

            metadata = Metadata()
        self.metadata = metadata
        self.output = VisImage(self.img, scale=scale)
        self._default_font_size = max(
            np.sqrt(self.output.height * self.output.width) // 90, 10 // scale
        )
        self._instance_mode = instance_mode

    def get_output(self) -> VisImage:
        return self.output

    def draw_instance_predictions(self, predictions: _Instances) -> VisImage:
        """Draw ``pred_boxes, pred_masks, pred_classes, scores``, those that there are."""
        boxes = predictions.pred_boxes if predictions.has("pred_boxes") else None
        scores = predictions.scores if predictions.has("scores") else None
        classes = predictions.pred_classes.tolist() if predictions.has("pred_classes") else None
        labels = _create_text_labels(classes, scores, self.metadata.get("thing_classes", None))
        masks = None
        if predictions.has("pred_masks"):
            masks = self._convert_masks(predictions.pred_masks)
        colors, alpha = None, 0.5
        if self._instance_mode is ColorMode.SEGMENTATION and classes is not None:
            if self.metadata.get("thing_colors"):
                colors, alpha = [self._class_color(c) for c in classes], 0.8
        if self._instance_mode is ColorMode.IMAGE_BW:
            self.output.reset_image(self._create_grayscale_image(masks))
            alpha = 0.3
        return self.overlay_instances(
            boxes=boxes, labels=labels, masks=masks, assigned_colors=colors, alpha=alpha
        )

    def draw_dataset_dict(self, dic: dict) -> VisImage:
        """Draw the annotations of a dict of Detectron2's data set format."""
        annotations = dic.get("annotations")
        if not annotations:
            return self.output
        masks = None
        if all("segmentation" in a for a in annotations):
            masks = [a["segmentation"] for a in annotations]
        boxes = None
        if all("bbox" in a for a in annotations):
            boxes = [
                BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations
            ]
        classes = [a["category_id"] for a in annotations]
        labels = _create_text_labels(
            classes,
            None,
            self.metadata.get("thing_classes", None),
            [a.get("iscrowd", 0) for a in annotations],
        )
        colors = None
        if self._instance_mode is ColorMode.SEGMENTATION and self.metadata.get("thing_colors"):
            colors = [self._class_color(c) for c in classes]
        return self.overlay_instances(
            boxes=boxes, labels=labels, masks=masks, assigned_colors=colors
        )

    def overlay_instances(
        self,
        *,
        boxes: Boxes | np.ndarray | None = None,
        labels: list[str] | None = None,
        masks: Any = None,
        keypoints: Any = None,
        assigned_colors: Sequence | None = None,
        alpha: float = 0.5,
    ) -> VisImage:
        """Draw N objects, the large ones first.

        ``boxes`` is Boxes or (N, 4); ``masks`` is BitMasks, PolygonMasks, (N, H, W) or a list of
        what GenericMask takes. Raises NotImplementedError for keypoints.
        """
        if keypoints is not None:
            raise NotImplementedError("keypoints are not drawn")
        if boxes is not None:
            boxes = self._convert_boxes(boxes)
        if masks is not None:
            masks = self._convert_masks(masks)
        lengths = {len(x) for x in (boxes, masks, labels) if x is not None}
        assert len(lengths) <= 1, f"boxes, masks and labels of different numbers: {lengths}"
        count = lengths.pop() if lengths else 0
        if count == 0:
            return self.output
        if assigned_colors is None:
            assigned_colors = [random_color(rgb=True, maximum=1) for _ in range(count)]

        if boxes is None and masks is not None:
            extents = np.stack([m.bbox() for m in masks])
        else:
            extents = boxes
        order = range(count)
        if extents is not None:
            order = np.argsort(-np.prod(extents[:, 2:] - extents[:, :2], axis=1), kind="stable")
        for i in order:
            color = assigned_colors[i]
            if boxes is not None:
                self.draw_box(boxes[i], edge_color=color)
            if masks is not None:
                for segment in masks[i].polygons:
                    self.draw_polygon(segment.reshape(-1, 2), color, alpha=alpha)
            if labels is not None and extents is not None:
                self._draw_label(labels[i], extents[i], color, at_corner=boxes is not None)
        return self.output

    def _draw_label(self, text: str, box: np.ndarray, color, *, at_corner: bool) -> None:
        x0, y0, x1, y1 = box
        if at_corner:
            position, alignment = (x0, y0), "left"
            if (x1 - x0) * (y1 - y0) < _SMALL_OBJECT * self.output.scale or y1 - y0 < 40:
                position = (x1, y0) if y1 >= self.output.height - 5 else (x0, y1)
        else:
            position, alignment = ((x0 + x1) / 2, (y0 + y1) / 2), "center"
        relative = (y1 - y0) / np.sqrt(self.output.height * self.output.width)
        size = np.clip((relative - 0.02) / 0.08 + 1, 1.2, 2) * 0.5 * self._default_font_size
        self.draw_text(
            text,
            position,
            color=_lightened(color),
            horizontal_alignment=alignment,
            font_size=size,
        )

    def draw_text(
        self,
        text: str,
        position: tuple[float, float],
        *,
        font_size: float | None = None,
        color="g",
        horizontal_alignment: str = "center",
        rotation: float = 0,
    ) -> VisImage:
        """Write text with its top at ``position`` (x, y) in pixels; rotation in degrees."""
        size = self._default_font_size if font_size is None else font_size
        x, y = position
        self.output.ax.text(
            x,
            y,
            text,
            size=size * self.output.scale,
            family="sans-serif",
            bbox={"facecolor": "black", "alpha": 0.8, "pad": 0.7, "edgecolor": "none"},
            verticalalignment="top",
            horizontalalignment=horizontal_alignment,
            color=_lightened(color, 0.0),
            zorder=10,
            rotation=rotation,
        )
        return self.output

    def draw_box(
        self, box_coord: Sequence[float], alpha: float = 0.5, edge_color="g", line_style: str = "-"
    ) -> VisImage:
        """Draw the outline of a box x0, y0, x1, y1."""
        from matplotlib.patches import Rectangle

        x0, y0, x1, y1 = box_coord
        self.output.ax.add_patch(
            Rectangle(
                (x0, y0),
                x1 - x0,
                y1 - y0,
                fill=False,
                edgecolor=edge_color,
                linewidth=max(self._default_font_size / 4, 1) * self.output.scale,
                alpha=alpha,
                linestyle=line_style,
            )
        )
        return self.output

    def draw_polygon(
        self, segment: np.ndarray, color, edge_color=None, alpha: float = 0.5
    ) -> VisImage:
        """Draw a filled polygon of points (P, 2) as x, y."""
        from matplotlib.colors import to_rgb
        from matplotlib.patches import Polygon

        if edge_color is None:
            edge_color = _lightened(color, -0.4) if alpha > 0.8 else color
        self.output.ax.add_patch(
            Polygon(
                segment,
                fill=True,
                facecolor=(*to_rgb(color), alpha),
                edgecolor=(*to_rgb(edge_color), 1.0),
                linewidth=max(self._default_font_size // 15 * self.output.scale, 1),
            )
        )
        return self.output

    def draw_binary_mask(
        self,
        binary_mask: np.ndarray,
        color=None,
        *,
        edge_color=None,
        text: str | None = None,
        alpha: float = 0.5,
        area_threshold: int = 10,
    ) -> VisImage:
        """Draw a mask (H, W); outlines around fewer than ``area_threshold`` pixels are left out.

        ``text`` is written in the middle of the mask.
        """
        import cv2
        from matplotlib.colors import to_rgb

        color = random_color(rgb=True, maximum=1) if color is None else color
        color = to_rgb(color)
        mask = GenericMask(np.asarray(binary_mask), self.output.height, self.output.width)
        large = [
            p
            for p in mask.polygons
            if cv2.contourArea(p.reshape(-1, 2).astype("f4")) >= area_threshold
        ]
        if not mask.has_holes:
            for polygon in large:
                self.draw_polygon(polygon.reshape(-1, 2), color, edge_color, alpha)
        else:
            layer = np.zeros((*mask.mask.shape, 4), dtype=np.float32)
            layer[..., :3] = color
            layer[..., 3] = mask.mask * alpha
            self.output.ax.imshow(layer, extent=(0, self.output.width, self.output.height, 0))
        if text is not None and mask.area() > 0 and (large or mask.has_holes):
            y, x = (float(np.median(axis)) for axis in np.nonzero(mask.mask))
            self.draw_text(text, (x, y), color=_lightened(color))
        return self.output

    def _class_color(self, category: int) -> tuple[float, float, float]:
        return tuple(x / 255 for x in self.metadata.thing_colors[category])

    def _create_grayscale_image(self, masks: list[GenericMask] | None) -> np.ndarray:
        """Return the image in grey outside the union of the masks."""
        image = np.repeat(self.img.astype("f4").mean(axis=2, keepdims=True), 3, axis=2)
        if masks:
            union = np.any([m.mask for m in masks], axis=0)
            image[union] = self.img[union]
        return image

    def _convert_boxes(self, boxes) -> np.ndarray:
        tensor = boxes.tensor if isinstance(boxes, Boxes) else boxes
        if isinstance(tensor, torch.Tensor):
            tensor = tensor.detach().cpu().numpy()
        return np.asarray(tensor, dtype=np.float32).reshape(-1, 4)

    def _convert_masks(self, masks) -> list[GenericMask]:
        if isinstance(masks, PolygonMasks):
            masks = masks.polygons
        elif isinstance(masks, BitMasks | torch.Tensor):
            tensor = masks.tensor if isinstance(masks, BitMasks) else masks
            masks = tensor.detach().cpu().numpy()
        return [
            m
            if isinstance(m, GenericMask)
            else GenericMask(m, self.output.height, self.output.width)
            for m in masks
        ]


def _create_text_labels(
    classes: Sequence[int] | None,
    scores: Sequence[float] | None,
    class_names: Sequence[str] | None,
    is_crowd: Sequence[bool] | None = None,
) -> list[str] | None:
    """Return labels such as ``"person 87%|crowd"`` from what is known, None if nothing is."""
    parts: list[list[str]] = []
    if classes is not None:
        parts.append([class_names[c] if class_names else str(c) for c in classes])
    if scores is not None:
        parts.append([f"{float(s) * 100:.0f}%" for s in scores])
    if not parts:
        return None
    labels = [" ".join(words) for words in zip(*parts)]
    if is_crowd is not None:
        labels = [f"{label}|crowd" if crowd else label for label, crowd in zip(labels, is_crowd)]
    return labels


def _lightened(color, factor: float = 0.7) -> tuple[float, float, float]:
    """Return the colour, its lightness changed by the factor, bright enough for a dark ground."""
    import colorsys

    from matplotlib.colors import to_rgb

    hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(color))
    lightness = min(max(lightness * (1 + factor), 0.0), 1.0)
    if factor >= 0:
        lightness = max(lightness, 0.2)
    return colorsys.hls_to_rgb(hue, lightness, saturation)
