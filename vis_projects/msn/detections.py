"""Detections of a frame as stage 2 wants them, and the hooks that may change them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from detectron2.structures import Instances
from detectron2.utils.registry import Registry

from ..config import register_names
from ..structures import RLE, decode_masks, encode_masks
from .association import drop_duplicates

RECLASSIFIER_REGISTRY = Registry("RECLASSIFIER")
RECLASSIFIER_REGISTRY.__doc__ = "Classifiers by name; each is built from a config."
register_names("MODEL.MSN.RECLASSIFIER", lambda: [name for name, _ in RECLASSIFIER_REGISTRY])


@dataclass
class Detections:
    """What the detector found in one frame, without dense tensors.

    Attributes:
        rles: N masks.
        classes: contiguous classes, ``scores`` in [0, 1]; N each.
        size: (H, W).
    """

    rles: list[RLE]
    classes: list[int]
    scores: list[float]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.rles)

    def masks(self, device: torch.device) -> torch.Tensor:
        """Bool (N, H, W) on a device."""
        return torch.from_numpy(decode_masks(self.rles, self.size)).to(device)


def select_detections(instances: Instances, *, threshold: float, duplicate_iou: float) -> Instances:
    """Detections above the threshold with a mask that is not empty, duplicates left out."""
    masks = instances.pred_masks
    keep = (instances.scores > threshold) & masks.flatten(1).any(1)
    kept = instances[keep.nonzero()[:, 0]]
    rows = drop_duplicates(kept.pred_masks, kept.scores, duplicate_iou)
    return kept[torch.tensor(rows, dtype=torch.int64, device=masks.device)]


def as_detections(instances: Instances, size: tuple[int, int]) -> Detections:
    """Encode the masks; the detections then no longer live on the device."""
    return Detections(
        encode_masks(instances.pred_masks),
        instances.pred_classes.tolist(),
        instances.scores.tolist(),
        size,
    )


class Reclassifier(ABC):
    """A strong classifier that looks at single boxes (MSN, Section 4.1; details unpublished)."""

    @abstractmethod
    def classify(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Class probabilities (N, K) of boxes (N, 4) in an RGB image, uint8 (H, W, 3)."""


def grown_boxes(boxes: np.ndarray, size: tuple[int, int], margin: float) -> np.ndarray:
    """Boxes (N, 4) grown on every side by ``margin`` of their sides, within the image."""
    grow = margin * (boxes[:, 2:] - boxes[:, :2])
    limit = np.array([size[1], size[0]])
    low, high = np.maximum(boxes[:, :2] - grow, 0), np.minimum(boxes[:, 2:] + grow, limit)
    return np.concatenate([low, high], 1)


def reclassify(
    instances: Instances,
    image: np.ndarray,
    classifier: Reclassifier,
    *,
    threshold: float = 0.9,
    margin: float = 0.1,
) -> Instances:
    """Replace classes of which the classifier is sure; the detector's scores stay.

    Args:
        instances: with ``pred_boxes`` and ``pred_classes``.
        image: RGB, uint8 (H, W, 3).
        threshold: the classifier's top probability must reach it.
        margin: see ``grown_boxes``.
    """
    if len(instances) == 0:
        return instances
    boxes = instances.pred_boxes.tensor.cpu().numpy()
    probs = classifier.classify(image, grown_boxes(boxes, image.shape[:2], margin))
    probs = torch.as_tensor(probs, device=instances.pred_classes.device)
    best, which = probs.max(1)
    classes = torch.where(best >= threshold, which, instances.pred_classes)
    instances.set("pred_classes", classes)
    return instances


def clean_up(labels: torch.Tensor, ids: Sequence[int], share: float = 0.25) -> torch.Tensor:
    """Clear the one-pixel border of a label map (H, W) and the small parts of each object.

    Parts below ``share`` of an object's largest contour area go (FrameSelect's clean-up).
    """
    array = labels.cpu().numpy().copy()
    array[[0, -1]] = 0
    array[:, [0, -1]] = 0
    for i in ids:
        mask = (array == i).astype(np.uint8)
        count, parts = cv2.connectedComponents(mask, connectivity=8)
        areas = np.zeros(count)
        for k in range(1, count):
            outlines, _ = cv2.findContours(
                (parts == k).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
            )
            areas[k] = max(cv2.contourArea(o) for o in outlines)
        small = np.flatnonzero(areas[1:] < share * areas.max()) + 1
        array[np.isin(parts, small)] = 0
    return torch.from_numpy(array).to(labels.device)
