"""Drawing predictions on the frames of a video, with colours that stay with the objects."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import Boxes as _Boxes
from detectron2.structures import Instances
from detectron2.structures import pairwise_iou as _pairwise_iou
from detectron2.utils.colormap import colormap as _colormap
from detectron2.utils.colormap import random_color
from detectron2.utils.visualizer import (
    ColorMode,
    Visualizer,
    _create_text_labels,
)
from detectron2.utils.visualizer import (
    VisImage as _VisImage,
)

__all__ = ["VideoVisualizer"]

_BOX_IOU = 0.6
_MASK_IOU = 0.5
_TIME_TO_LIVE = 8  # frames for which an object that is not seen keeps its colour
_MAX_INSTANCES = 74


@dataclass
class _Seen:
    """An object of an earlier frame, for matching by overlap."""

    label: int
    box: np.ndarray | None
    rle: dict | None
    color: Any = None
    ttl: int = _TIME_TO_LIVE


class VideoVisualizer:
    """Draws frame after frame; an object's colour follows COLOR, ID or the overlap of frames."""

    def __init__(self, metadata: Any, instance_mode: ColorMode = ColorMode.IMAGE) -> None:
        assert instance_mode in (ColorMode.IMAGE, ColorMode.IMAGE_BW), (
            f"{instance_mode} is not for video: use IMAGE or IMAGE_BW"
        )
        self.metadata = metadata
        self._instance_mode = instance_mode
        self._max_num_instances = metadata.get("max_num_instances", _MAX_INSTANCES)
        palette = _colormap(rgb=True, maximum=1)
        self._palette = palette[np.arange(self._max_num_instances) % len(palette)]
        self._color_of_id: dict[Hashable, int] = {}  # in order of last use
        self._seen: list[_Seen] = []

    def draw_instance_predictions(self, frame: np.ndarray, predictions: Instances) -> _VisImage:
        """Draw one frame (H, W, 3), RGB uint8; call in the order of the video.

        The colours are ``predictions.COLOR`` if present; else they belong to the numbers in
        ``predictions.ID``; else they follow boxes or masks of equal class that overlap.
        """
        visualizer = Visualizer(frame, self.metadata)
        count = len(predictions) if predictions.get_fields() else 0
        if count == 0:
            self._assign_by_overlap([])
            return visualizer.output
        boxes = (
            predictions.pred_boxes.tensor.cpu().numpy() if predictions.has("pred_boxes") else None
        )
        scores = predictions.scores if predictions.has("scores") else None
        classes = predictions.pred_classes.tolist() if predictions.has("pred_classes") else None
        masks = predictions.pred_masks if predictions.has("pred_masks") else None
        if isinstance(masks, torch.Tensor):
            masks = masks.cpu().numpy()

        if predictions.has("COLOR"):
            colors = predictions.COLOR
        elif predictions.has("ID"):
            ids = predictions.ID
            colors = self._assign_by_id(ids.tolist() if hasattr(ids, "tolist") else ids)
        else:
            colors = self._assign_by_overlap(_describe(classes, boxes, masks, count))

        labels = _create_text_labels(classes, scores, self.metadata.get("thing_classes", None))
        alpha = 0.5
        if self._instance_mode is ColorMode.IMAGE_BW:
            grey = visualizer._create_grayscale_image(
                visualizer._convert_masks(masks) if masks is not None else None
            )
            visualizer.output.reset_image(grey)
            alpha = 0.3
        return visualizer.overlay_instances(
            boxes=None if masks is not None else boxes,  # both would hide too much of a frame
            masks=masks,
            labels=labels,
            assigned_colors=colors,
            alpha=alpha,
        )

    def _assign_by_id(self, ids: Sequence[Hashable]) -> list[np.ndarray]:
        """Give every id a colour of its own; when all are used, the longest unseen gives way."""
        known = self._color_of_id
        for key in ids:
            if key in known:
                known[key] = known.pop(key)  # most recently used
        present = set(ids)
        for key in ids:
            if key in known:
                continue
            free = set(range(self._max_num_instances)) - set(known.values())
            if free:
                known[key] = min(free)
                continue
            oldest = next((k for k in known if k not in present), None)
            known[key] = (
                known.pop(oldest) if oldest is not None else len(known) % self._max_num_instances
            )
        return [self._palette[known[key]] for key in ids]

    def _assign_by_overlap(self, objects: list[_Seen]) -> list[np.ndarray]:
        """Hand colours of earlier objects to those of this frame that overlap them."""
        unmatched = []
        overlaps, threshold = _overlaps(self._seen, objects)
        for old, row in zip(self._seen, overlaps):
            best = int(row.argmax()) if len(row) else -1
            if best >= 0 and row[best] > threshold and objects[best].color is None:
                objects[best].color = old.color
            elif old.ttl > 1:
                old.ttl -= 1
                unmatched.append(old)
        for new in objects:
            if new.color is None:
                new.color = random_color(rgb=True, maximum=1)
        self._seen = objects + unmatched
        return [new.color for new in objects]


def _describe(classes, boxes, masks, count: int) -> list[_Seen]:
    assert boxes is not None or masks is not None, "predictions have neither boxes nor masks"
    rles: list = [None] * count
    if masks is not None:
        stacked = np.asfortranarray(np.asarray(masks, dtype=np.uint8).transpose(1, 2, 0))
        rles = mask_util.encode(stacked)
    return [
        _Seen(
            label=-1 if classes is None else classes[i],
            box=None if boxes is None else boxes[i],
            rle=rles[i],
        )
        for i in range(count)
    ]


def _overlaps(old: list[_Seen], new: list[_Seen]) -> tuple[np.ndarray, float]:
    """Return the IoU (old, new), 0 between classes, and the threshold for a match."""
    if not old or not new:
        return np.zeros((len(old), len(new))), 1.0
    everything = old + new
    if all(x.rle is not None for x in everything):
        iou = np.asarray(mask_util.iou([x.rle for x in old], [x.rle for x in new], [0] * len(new)))
        threshold = _MASK_IOU
    elif all(x.box is not None for x in everything):
        iou = _pairwise_iou(
            _Boxes(np.stack([x.box for x in old])), _Boxes(np.stack([x.box for x in new]))
        ).numpy()
        threshold = _BOX_IOU
    else:  # masks in one frame and boxes in the other cannot be compared
        return np.zeros((len(old), len(new))), 1.0
    same = np.array([x.label for x in old])[:, None] == np.array([x.label for x in new])
    return iou * same, threshold
