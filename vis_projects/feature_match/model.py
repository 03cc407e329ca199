"""FeatureMatch as a system: semi-supervised segmentation that needs no training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY

from ..modeling import PropagatingModel, Propagation
from .propagator import FeatureMatchPropagator


@META_ARCH_REGISTRY.register()
class FeatureMatch(PropagatingModel):
    """Carries the given masks on by nearest neighbours among pretrained features.

    Args:
        propagator: the trunk and the memory.
    """

    trainable = False

    @configurable
    def __init__(self, *, propagator: FeatureMatchPropagator, **base: Any) -> None:
        super().__init__(**base)
        self.propagator = propagator

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {**cls.base_config(cfg), "propagator": FeatureMatchPropagator(cfg)}

    def frame_scores(
        self, masks: torch.Tensor, propagation: Propagation, ids: Sequence[int]
    ) -> torch.Tensor:
        """Return each object's mean probability on its pixels; 1 where it was given."""
        planes = torch.ones(masks.shape, device=masks.device)
        for row, i in enumerate(ids):
            if i in propagation.ids:
                planes[row] = propagation.probabilities[1 + propagation.ids.index(i)]
        return (planes * masks).sum((1, 2)) / masks.sum((1, 2)).clamp(min=1)
