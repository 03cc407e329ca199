"""FeatureMatch as a system: semi-supervised segmentation that needs no training."""

from __future__ import annotations

import logging
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY

from ..modeling import VideoModel
from ..structures import Frame, FrameResult, VideoInfo, masks_of
from .propagator import FeatureMatchPropagator

_log = logging.getLogger(__name__)


@META_ARCH_REGISTRY.register()
class FeatureMatch(VideoModel):
    """Carries the given masks on by nearest neighbours among pretrained features.

    Masks: an empty one is skipped with a warning; of overlapping ones the later has the pixels. A
    mask of an id that is known replaces the id's pixels in its frame, which becomes a lasting
    reference. Without any mask a video has no tracks.

    Args:
        propagator: the trunk and the memory.
    """

    task = "vos"
    takes_masks = True
    trainable = False

    @configurable
    def __init__(self, *, propagator: FeatureMatchPropagator, **base: Any) -> None:
        super().__init__(**base)
        self.propagator = propagator

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {**cls.base_config(cfg), "propagator": FeatureMatchPropagator(cfg)}

    def begin(self, info: VideoInfo) -> None:
        self.propagator.reset(info.size)

    def segment(self, frame: Frame, new_masks: Any = None) -> FrameResult:
        propagation = self.propagator.predict(frame)
        labels, known = propagation.label_map, propagation.ids
        entering, corrected = [], False
        for i, mask in _given(new_masks, frame):
            if i in known:
                corrected = True
                labels = torch.where(labels == i, 0, labels)
            elif i not in entering:
                entering.append(i)
            labels = torch.where(mask.to(labels.device), i, labels)
        self.propagator.commit(labels, entering, frame=frame, reference=corrected)
        ids = torch.tensor(sorted([*known, *entering]), dtype=torch.int64, device=labels.device)
        masks = labels[None] == ids[:, None, None]
        return FrameResult.build(
            masks, ids, scores=_scores(masks, propagation, ids), index=frame.index
        )


def _given(new_masks: Any, frame: Frame) -> list[tuple[int, torch.Tensor]]:
    """Return ids and masks with pixels."""
    if new_masks is None:
        return []
    given = []
    for i, mask in zip(*masks_of(new_masks, frame.size)):
        if mask.any():
            given.append((i, mask))
        else:
            _log.warning("frame %d: the mask of object %d is empty; skipped", frame.index, i)
    return given


def _scores(masks: torch.Tensor, propagation: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return each object's mean probability on its pixels; 1 where it was given."""
    planes = torch.ones(masks.shape, device=masks.device)
    for row, i in enumerate(ids.tolist()):
        if i in propagation.ids:
            planes[row] = propagation.probabilities[1 + propagation.ids.index(i)]
    return (planes * masks).sum((1, 2)) / masks.sum((1, 2)).clamp(min=1)
