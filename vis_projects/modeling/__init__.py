"""What two or more systems share."""

from . import registered_names as _registered_names  # noqa: F401  checked in every config
from .backbones import swin as _swin  # noqa: F401  registers itself
from .backbones import timm_backbone as _timm_backbone  # noqa: F401  registers itself
from .feature_cache import FeatureCache, tensor_bytes
from .mask_iou import pairwise_mask_intersection, pairwise_mask_iou
from .mask_prompts import MaskPrompts, mask_prompts
from .matching_memory import MatchingMemory
from .preprocess import Preprocess, SizeRule, shortest_edge
from .progress import OnProgress, reporting, steps
from .propagating_model import PropagatingModel
from .propagator import PROPAGATOR_REGISTRY, Propagation, Propagator, build_propagator
from .spool import seekable
from .stages import StageTimer, stage
from .video_model import NewMasks, OnFrame, VideoModel

__all__ = [
    "PROPAGATOR_REGISTRY",
    "FeatureCache",
    "MaskPrompts",
    "MatchingMemory",
    "NewMasks",
    "OnFrame",
    "OnProgress",
    "Preprocess",
    "PropagatingModel",
    "Propagation",
    "Propagator",
    "SizeRule",
    "StageTimer",
    "VideoModel",
    "build_propagator",
    "mask_prompts",
    "pairwise_mask_intersection",
    "pairwise_mask_iou",
    "reporting",
    "seekable",
    "shortest_edge",
    "stage",
    "steps",
    "tensor_bytes",
]
