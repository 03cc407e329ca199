"""Backbones, proposal generation, RoI heads and meta-architectures."""

from .anchor_generator import (
    ANCHOR_GENERATOR_REGISTRY,
    DefaultAnchorGenerator,
    build_anchor_generator,
)
from .backbone import (
    BACKBONE_REGISTRY,
    FPN,
    Backbone,
    ResNet,
    build_backbone,
    build_resnet_backbone,
)
from .box_regression import Box2BoxTransform
from .matcher import Matcher
from .poolers import ROIPooler
from .postprocessing import detector_postprocess, sem_seg_postprocess
from .sampling import subsample_labels

__all__ = [
    "ANCHOR_GENERATOR_REGISTRY",
    "BACKBONE_REGISTRY",
    "FPN",
    "Backbone",
    "Box2BoxTransform",
    "DefaultAnchorGenerator",
    "Matcher",
    "ROIPooler",
    "ResNet",
    "build_anchor_generator",
    "build_backbone",
    "build_resnet_backbone",
    "detector_postprocess",
    "sem_seg_postprocess",
    "subsample_labels",
]
