"""Which options name something registered with Detectron2 or here; checked when a config loads."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
)
from detectron2.utils.registry import Registry

from ..config import register_names
from .propagator import PROPAGATOR_REGISTRY


def names_of(registry: Registry, *more: str) -> Callable[[], Iterable[str]]:
    """Return a function that lists a registry's names as they are when it is called."""
    return lambda: [*more, *(name for name, _ in registry)]


register_names("MODEL.META_ARCHITECTURE", names_of(META_ARCH_REGISTRY))
register_names("MODEL.BACKBONE.NAME", names_of(BACKBONE_REGISTRY))
register_names("MODEL.PROPAGATOR.NAME", names_of(PROPAGATOR_REGISTRY))
register_names(
    "MODEL.PROPOSAL_GENERATOR.NAME", names_of(PROPOSAL_GENERATOR_REGISTRY, "PrecomputedProposals")
)
register_names("MODEL.ROI_HEADS.NAME", names_of(ROI_HEADS_REGISTRY))
register_names("MODEL.ROI_BOX_HEAD.NAME", names_of(ROI_BOX_HEAD_REGISTRY))
register_names("MODEL.ROI_MASK_HEAD.NAME", names_of(ROI_MASK_HEAD_REGISTRY))
register_names("MODEL.ANCHOR_GENERATOR.NAME", names_of(ANCHOR_GENERATOR_REGISTRY))
