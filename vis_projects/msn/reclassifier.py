"""The re-classifier of section 4.1: any image classifier of timm on crops of the detections.

The paper says "ViT-based strong classifier" and no more. Two forms: a network that was trained here
on crops of YouTube-VIS objects (``CropClassifier``), or a classifier of ImageNet as it is, whose
probabilities are added up over the ImageNet classes that a class map gives to each VIS class.

Letters: N crops, S their side in pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn
from torch.nn import functional as F

from ..data.catalog.class_maps import load_class_map
from ..modeling.backbones.timm_classifier import (
    IMAGENET_CLASSES,
    build_timm_classifier,
    classifier_pixels,
)
from ..structures import InputError
from ..weights.own_weights import own_weights_later, see_to_weights
from ..weights.verdict import watch_loading
from .detections import RECLASSIFIER_REGISTRY, Reclassifier, grown_boxes


def cut_crops(image: np.ndarray, boxes: np.ndarray, size: int) -> np.ndarray:
    """Cut boxes (N, 4) out of an image (H, W, 3) and stretch them to uint8 (N, S, S, 3)."""
    height, width = image.shape[:2]
    crops = np.zeros((len(boxes), size, size, 3), np.uint8)
    for crop, (x0, y0, x1, y1) in zip(crops, boxes):
        left, top = min(int(x0), width - 1), min(int(y0), height - 1)
        right, bottom = max(int(np.ceil(x1)), left + 1), max(int(np.ceil(y1)), top + 1)
        part = np.ascontiguousarray(image[top:bottom, left:right])
        shrinks = part.shape[0] * part.shape[1] > size * size
        flag = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        crop[:] = cv2.resize(part, (size, size), interpolation=flag)
    return crops


class CropNetwork(nn.Module):
    """A timm classifier with its own pixel statistics; crops in, logits or probabilities out.

    Args:
        name: of the network in timm.
        num_classes: K of a network trained here; 0: the 1000 of ImageNet, projected by
            ``class_map``.
        class_map: key of a class map from ImageNet's 0-based indices ("msn/imagenet1k/ytvis_2021").
        target_classes: K of that map's target.
        pretrained: start from ImageNet weights.
        size: S.

    Raises:
        InputError: timm does not know the network, or its weights cannot be had.
    """

    def __init__(
        self,
        name: str,
        *,
        num_classes: int = 40,
        class_map: str = "",
        target_classes: int = 40,
        pretrained: bool = False,
        size: int = 224,
    ) -> None:
        super().__init__()
        self.size = size
        self.net = build_timm_classifier(
            name, num_classes=num_classes or IMAGENET_CLASSES, pretrained=pretrained, size=size
        )
        mean, std = classifier_pixels(name)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        projection = None
        if num_classes == 0:
            if not class_map:
                raise InputError(
                    "MODEL.MSN.CLASSIFIER.NUM_CLASSES 0 keeps ImageNet's classes: name the map to "
                    "yours with MODEL.MSN.CLASSIFIER.CLASS_MAP"
                )
            projection = project(class_map, target_classes)
        self.register_buffer("projection", projection, persistent=False)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Return logits of RGB crops, uint8 (N, 3, S, S)."""
        return self.net((crops.float() - self.mean) / self.std)

    def probabilities(self, crops: torch.Tensor) -> torch.Tensor:
        """Return (N, K); of an ImageNet network what no class is mapped to stays missing."""
        found = self(crops).float().softmax(1)
        return found if self.projection is None else found @ self.projection


def project(class_map: str, classes: int) -> torch.Tensor:
    """Return the matrix (1000, K) that adds ImageNet's probabilities up to those of K classes.

    Raises:
        InputError: no such map, or it names a class beyond K.
    """
    matrix = torch.zeros((IMAGENET_CLASSES, classes))
    for index, category in load_class_map(class_map).items():
        if not 1 <= category <= classes:
            raise InputError(
                f"class map {class_map} leads to category {category}, but there are {classes}"
            )
        matrix[int(index), category - 1] = 1.0
    return matrix


def _from_options(cfg: CfgNode, *, pretrained: bool) -> CropNetwork:
    node = cfg.MODEL.MSN.CLASSIFIER
    with own_weights_later(bool(cfg.MODEL.WEIGHTS)):
        return CropNetwork(
            node.NAME,
            num_classes=node.NUM_CLASSES,
            class_map=node.CLASS_MAP,
            target_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            pretrained=pretrained,
            size=node.SIZE,
        )


@RECLASSIFIER_REGISTRY.register()
class TimmReclassifier(Reclassifier, nn.Module):
    """Classifies boxes by a ``CropNetwork``; one call per frame, all boxes in one batch.

    An ImageNet network brings its weights along; one that was trained here takes them from the
    pipeline's file (``join_weights --reclassifier``).
    """

    def __init__(self, cfg: CfgNode) -> None:
        nn.Module.__init__(self)
        self.network = _from_options(cfg, pretrained=cfg.MODEL.MSN.CLASSIFIER.NUM_CLASSES == 0)

    @torch.no_grad()
    def classify(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        crops = torch.from_numpy(cut_crops(image, boxes, self.network.size)).permute(0, 3, 1, 2)
        device = self.network.mean.device
        return self.network.probabilities(crops.to(device, non_blocking=True)).cpu().numpy()


@META_ARCH_REGISTRY.register()
class CropClassifier(nn.Module):
    """Training of the re-classifier: crops of the annotated objects of images and single frames.

    Items are those of the sampler ``still``; every object is one crop, its box grown by
    ``MODEL.MSN.RECLASSIFY_MARGIN`` on every side, as at test. In evaluation the items' class
    probabilities come back. Its weights go into MSN by ``join_weights --reclassifier``.

    Args:
        network: gives logits of crops.
        margin: share of the box's sides.
        jitter: corners move by up to this share of the sides, since a detector's boxes do.
        max_crops: of an image, a random choice; bounds the batch.
        image_format: of the items, "BGR" or "RGB".
        needs_weights: see ``VideoModel``.
    """

    trainable = True

    @configurable
    def __init__(
        self,
        *,
        network: CropNetwork,
        margin: float = 0.1,
        jitter: float = 0.1,
        max_crops: int = 16,
        image_format: str = "RGB",
        needs_weights: bool = False,
    ) -> None:
        super().__init__()
        self.needs_weights = needs_weights
        watch_loading(self)
        self.network, self.margin, self.jitter = network, margin, jitter
        self.max_crops, self.image_format = max_crops, image_format

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.MSN.CLASSIFIER
        if node.NUM_CLASSES == 0:
            raise InputError(
                "MODEL.MSN.CLASSIFIER.NUM_CLASSES 0 is ImageNet's classifier as it is: set the "
                "number of classes to train on"
            )
        return {
            "network": _from_options(cfg, pretrained=node.PRETRAINED),
            "margin": cfg.MODEL.MSN.RECLASSIFY_MARGIN,
            "jitter": node.JITTER,
            "max_crops": node.MAX_CROPS,
            "image_format": cfg.INPUT.FORMAT,
            "needs_weights": not cfg.MODEL.ALLOW_MISSING_WEIGHTS,
        }

    @property
    def device(self) -> torch.device:
        return self.network.mean.device

    def crops_of(self, item: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the crops, uint8 (N, 3, S, S) RGB, and classes (N,) of an item's objects."""
        objects = item["instances"]
        chosen = torch.randperm(len(objects))[: self.max_crops] if self.training else ...
        boxes = objects.gt_boxes.tensor[chosen].numpy()
        image = item["image"].permute(1, 2, 0).numpy()
        image = image if self.image_format == "RGB" else image[..., ::-1]
        size = image.shape[:2]
        boxes = grown_boxes(boxes, size, self.margin)
        if self.training and len(boxes):
            sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
            noise = (torch.rand(boxes.shape).numpy() * 2 - 1) * self.jitter
            boxes = np.clip(boxes + noise * sides, 0, np.array([size[1], size[0]] * 2))
        crops = torch.from_numpy(cut_crops(image, boxes, self.network.size)).permute(0, 3, 1, 2)
        return crops, objects.gt_classes[chosen]

    def forward(self, items: Sequence[dict[str, Any]]) -> Any:
        """The loss in training, else probabilities (N, K) of each item's objects."""
        see_to_weights(self)
        found = [self.crops_of(item) for item in items]
        crops = torch.cat([c for c, _ in found]).to(self.device, non_blocking=True)
        classes = torch.cat([k for _, k in found]).to(self.device, non_blocking=True)
        if not self.training:
            counts = [len(c) for c, _ in found]
            return list(self.network.probabilities(crops).split(counts))
        if len(crops) == 0:  # zero, yet connected to every parameter
            return {"loss_class": 0.0 * sum(p.sum() for p in self.network.parameters())}
        return {"loss_class": F.cross_entropy(self.network(crops).float(), classes)}
