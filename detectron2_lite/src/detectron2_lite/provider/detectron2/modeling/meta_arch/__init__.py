"""Whole models."""

from .build import META_ARCH_REGISTRY, build_model
from .rcnn import GeneralizedRCNN, ProposalNetwork
from .semantic_seg import SEM_SEG_HEADS_REGISTRY

__all__ = [
    "META_ARCH_REGISTRY",
    "SEM_SEG_HEADS_REGISTRY",
    "GeneralizedRCNN",
    "ProposalNetwork",
    "build_model",
]
