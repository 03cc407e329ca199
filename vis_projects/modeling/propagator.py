"""Mask propagation as a service: the part of a VOS system that other systems build on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.utils.registry import Registry
from torch import nn

from ..structures import Frame, check_name

PROPAGATOR_REGISTRY = Registry("PROPAGATOR")
PROPAGATOR_REGISTRY.__doc__ = "Propagators by name; each is built from a config."


@dataclass
class Propagation:
    """A propagator's prediction for one frame of H x W pixels.

    Attributes:
        ids: the N objects known before the frame, ascending.
        label_map: int64 (H, W) of ids, 0 background, on the device.
        probabilities: (1 + N, H, W), background first, rows in the order of ``ids``.
    """

    ids: list[int]
    label_map: torch.Tensor
    probabilities: torch.Tensor


class Propagator(nn.Module, ABC):
    """Carries label maps from frame to frame.

    Per frame the caller asks ``predict``, decides (a VOS system takes the prediction, MSN
    selects and adds objects), and ``commit``s the label map that was finally decided. ``predict``
    does not change what is remembered; every frame is committed once, in order. A first frame is
    committed without a prediction by passing ``frame``.
    """

    @abstractmethod
    def reset(self, size: tuple[int, int]) -> None:
        """Forget everything; the next video has frames of ``size`` (H, W)."""

    @abstractmethod
    def predict(self, frame: Frame) -> Propagation:
        """Segment the known objects in ``frame``; with no object known all is background."""

    @abstractmethod
    def commit(
        self,
        label_map: torch.Tensor,
        new_ids: Sequence[int] = (),
        *,
        frame: Frame | None = None,
        reference: bool = False,
        corrected: Sequence[int] = (),
    ) -> None:
        """Remember what was decided for the frame last predicted.

        Args:
            label_map: int64 (H, W) of ids, on any device.
            new_ids: ids that enter with this frame.
            frame: the frame, if it was not predicted before (a first frame).
            reference: keep the frame as a lasting reference where the system has such.
            corrected: known ids whose masks in the map were given: the frame becomes a lasting
                reference for them, at most ``MODEL.MAX_REFERENCES`` a video.
        """

    def remove(self, ids: Sequence[int]) -> None:
        """Forget known objects; their pixels in what is remembered become background."""
        raise NotImplementedError(f"{type(self).__name__} cannot forget single objects")


def build_propagator(cfg: CfgNode) -> Propagator:
    """Build the propagator named by ``MODEL.PROPAGATOR.NAME`` on ``MODEL.DEVICE``."""
    name = cfg.MODEL.PROPAGATOR.NAME
    check_name("MODEL.PROPAGATOR.NAME", name, [n for n, _ in PROPAGATOR_REGISTRY])
    return PROPAGATOR_REGISTRY.get(name)(cfg).to(cfg.MODEL.DEVICE)
