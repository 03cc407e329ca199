"""Annotated stills as material for videos: whole images and cut-outs, a part of them held out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...structures import InputError
from ..catalog.registration import dataset_root
from ..clips.clip_mapper import decode_segmentation
from ..formats.stills import load_coco_stills

HOLD_OUT = 6  # every sixth still by name belongs to the split "val"
MIN_SIDE = 48  # pixels, of a cut-out in its still


@dataclass
class Still:
    """One image (H, W, 3), BGR, and its instances: masks uint8 (N, H, W)."""

    image: np.ndarray
    masks: np.ndarray


class StillPool:
    """The stills of one split.

    Raises:
        InputError: files are missing or broken, or no still shows an instance that can be cut out.
    """

    def __init__(self, json_file: str, images: str, split: str) -> None:
        places = [p if Path(p).exists() else str(dataset_root() / p) for p in (json_file, images)]
        videos, _ = load_coco_stills(*places)
        videos = sorted(videos, key=lambda v: v["name"])
        held = split == "val"
        self.videos = [v for k, v in enumerate(videos) if (k % HOLD_OUT == 0) == held]
        self._read = lru_cache(maxsize=256)(self._still)
        self.cutouts = [
            (k, n)
            for k, video in enumerate(self.videos)
            for n, a in enumerate(self.instances(video))
            if min(_sides(a)) >= MIN_SIDE and not _cut_off(a, video)
        ]
        if not self.cutouts:
            raise InputError(
                f"{json_file}: no instance of {MIN_SIDE} pixels or more inside its image "
                f"(split {split})"
            )

    @staticmethod
    def instances(video: dict[str, Any]) -> list[dict[str, Any]]:
        return [a for a in video["annotations"][0] if not a.get("iscrowd", 0)]

    def still(self, k: int) -> Still:
        return self._read(k)

    def _still(self, k: int) -> Still:
        video = self.videos[k]
        image = cv2.imread(str(video["file_names"][0]), cv2.IMREAD_COLOR)
        if image is None:
            raise InputError(f"{video['file_names'][0]}: no such image, or damaged")
        size = image.shape[:2]
        masks = [decode_segmentation(a["segmentation"], size, video["name"])
                 for a in self.instances(video)]  # fmt: skip
        return Still(image, np.stack(masks) if masks else np.zeros((0, *size), np.uint8))

    def cutout(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a patch (h, w, 3) and its alpha (h, w), uint8, with a margin."""
        k, n = self.cutouts[index]
        still = self.still(k)
        mask = still.masks[n]
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        margin = 8 + (max(len(rows), len(columns)) // 10)
        window = [(slice(max(x[0] - margin, 0), x[-1] + 1 + margin)) for x in (rows, columns)]
        return still.image[tuple(window)], 255 * mask[tuple(window)]


def _sides(annotation: dict[str, Any]) -> tuple[float, float]:
    x, y, a, b = annotation["bbox"]
    xywh = int(annotation["bbox_mode"]) == 1
    return (a, b) if xywh else (a - x, b - y)


def _cut_off(annotation: dict[str, Any], video: dict[str, Any]) -> bool:
    """Tell whether an instance leaves its image at more than one side."""
    x, y = annotation["bbox"][:2]
    w, h = _sides(annotation)
    ends = (x < 2, y < 2, x + w > video["width"] - 2, y + h > video["height"] - 2)
    return sum(ends) > 1


@lru_cache(maxsize=8)
def still_pool(json_file: str, images: str, split: str, root: str) -> StillPool:
    """Return the pool of a set; cached per folder of data sets."""
    return StillPool(json_file, images, split)
