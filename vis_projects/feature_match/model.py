"""FeatureMatch as a system: semi-supervised segmentation that needs no training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY

from ..modeling import VideoModel, mask_prompts
from ..structures import Frame, FrameResult, VideoInfo, on_device
from .propagator import FeatureMatchPropagator


@META_ARCH_REGISTRY.register()
class FeatureMatch(VideoModel):
    """Carries the given masks on by nearest neighbours among pretrained features.

    Masks: an empty one is skipped with a warning; of overlapping ones the higher id has the pixels.
    A mask of an id that is known replaces the id's pixels in its frame, which becomes a lasting
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

    @property
    def object_ids(self) -> list[int]:
        return list(self.propagator.ids)

    def drop_objects(self, ids: Sequence[int]) -> None:
        self.propagator.remove(ids)

    def segment(self, frame: Frame, new_masks: Any = None) -> FrameResult:
        propagation = self.propagator.predict(frame)
        known = propagation.ids
        given = mask_prompts(new_masks, frame, known=known)
        labels = given.painted(propagation.label_map)
        self.propagator.commit(labels, given.entering, frame=frame, corrected=given.corrected)
        order = sorted([*known, *given.entering])
        ids = on_device(order, labels.device)
        masks = labels[None] == ids[:, None, None]
        return FrameResult.build(
            masks, ids, scores=_scores(masks, propagation, order), index=frame.index
        )


def _scores(masks: torch.Tensor, propagation: Any, ids: Sequence[int]) -> torch.Tensor:
    """Return each object's mean probability on its pixels; 1 where it was given."""
    planes = torch.ones(masks.shape, device=masks.device)
    for row, i in enumerate(ids):
        if i in propagation.ids:
            planes[row] = propagation.probabilities[1 + propagation.ids.index(i)]
    return (planes * masks).sum((1, 2)) / masks.sum((1, 2)).clamp(min=1)
