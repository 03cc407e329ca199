"""CopyFirst as a system: a VOS tracker whose every frame looks like the first."""

from __future__ import annotations

from typing import Any

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY

from ..modeling import PropagatingModel
from .propagator import CopyFirstPropagator


@META_ARCH_REGISTRY.register()
class CopyFirst(PropagatingModel):
    """Repeats every object's newest given mask in all later frames.

    An object that enters later lies over the older ones. A video without any mask has no tracks.
    """

    trainable = False

    @configurable
    def __init__(self, *, propagator: CopyFirstPropagator | None = None, **base: Any) -> None:
        super().__init__(**base)
        self.propagator = propagator or CopyFirstPropagator()

    @classmethod
    def from_config(cls, cfg) -> dict[str, Any]:
        return {**cls.base_config(cfg), "propagator": CopyFirstPropagator(cfg)}
