"""The registry of proposal generators."""

from __future__ import annotations

from detectron2.layers import ShapeSpec as _ShapeSpec
from fvcore.common.registry import Registry
from torch import nn

PROPOSAL_GENERATOR_REGISTRY = Registry("PROPOSAL_GENERATOR")
PROPOSAL_GENERATOR_REGISTRY.__doc__ = "Callables ``(cfg, dict[str, _ShapeSpec])`` by name."


def build_proposal_generator(cfg, input_shape: dict[str, _ShapeSpec]) -> nn.Module | None:
    """Build ``cfg.MODEL.PROPOSAL_GENERATOR.NAME``; None for "PrecomputedProposals"."""
    name = cfg.MODEL.PROPOSAL_GENERATOR.NAME
    if name == "PrecomputedProposals":
        return None
    return PROPOSAL_GENERATOR_REGISTRY.get(name)(cfg, input_shape)
