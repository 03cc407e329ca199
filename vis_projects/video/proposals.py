"""Objects that an unsupervised system proposes in a frame."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from ..structures import InputError
from ..weights import config_of_checkpoint, zoo_entries
from .predictor import VideoPredictor

logger = logging.getLogger(__name__)
UVOS_WEIGHTS = "zoo://uvos_lite0"


def shipped_finder(device: str = "") -> CfgNode:
    """Return the config of the system that ships with the package and finds objects itself.

    Args:
        device: "" leaves the choice to the machine.

    Raises:
        InputError: this package has none.
    """
    if UVOS_WEIGHTS.removeprefix("zoo://") not in zoo_entries():
        raise InputError(
            f"proposals need {UVOS_WEIGHTS}, which this package does not hold: train "
            "configs/srnet/lite0_stills.yaml and give its checkpoint as --weights, or mark the "
            "objects (--box x0,y0,x1,y1)"
        )
    return config_of_checkpoint(UVOS_WEIGHTS, ["MODEL.DEVICE", device] if device else ())


def propose(predictor: VideoPredictor, image: np.ndarray, *, rgb: bool = False) -> np.ndarray:
    """Return the objects that a system finds in one frame as a label map of ids (H, W).

    Args:
        image: uint8 (H, W, 3), BGR unless ``rgb``.

    Raises:
        InputError: it found none.
    """
    result = next(iter(predictor([image], rgb=rgb)))
    return proposed_masks(result.instances, above=proposed_above(predictor))


class ShippedFinder:
    """Where the shipped system sees objects in an image: GrabCut's second opinion.

    It is loaded when it is first asked; where it cannot be, nothing is seen, and GrabCut decides by
    colours alone.
    """

    def __init__(self, device: str = "") -> None:
        self.device = device
        self._predictor: VideoPredictor | None = None
        self._absent = False

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the union of the objects in an image (h, w, 3), BGR, as bool (h, w)."""
        if self._predictor is None and not self._absent:
            try:
                self._predictor = VideoPredictor(shipped_finder(self.device))
            except InputError as error:
                logger.info("boxes become masks by colours alone: %s", error)
                self._absent = True
        if self._predictor is None:
            return np.zeros(image.shape[:2], bool)
        found = next(iter(self._predictor([image]))).instances.pred_masks
        return found.any(0).cpu().numpy() if len(found) else np.zeros(image.shape[:2], bool)


def proposed_above(predictor: VideoPredictor) -> float:
    """Return the score that a proposal needs: that of the foreground, else that of overlays."""
    return predictor.cfg.TEST.FOREGROUND_THRESH or predictor.model.drawn_above


def proposed_masks(instances: Any, *, above: float, most: int = 20) -> np.ndarray:
    """Return the objects that a system found in a frame as a label map of ids.

    Args:
        instances: of its ``FrameResult``.
        above: score that an object needs.
        most: objects, the best ones.

    Raises:
        InputError: it found none.
    """
    scores = instances.scores.cpu().numpy()
    masks = instances.pred_masks.cpu().numpy()
    order = [k for k in np.argsort(-scores) if scores[k] >= above and masks[k].any()][:most]
    if not order:
        raise InputError("no object was found in the first frame: give --box x0,y0,x1,y1")
    labels = np.zeros(masks.shape[1:], np.uint8)
    for number, k in reversed(list(enumerate(order, 1))):  # the best on top
        labels[masks[k]] = number
    return labels
