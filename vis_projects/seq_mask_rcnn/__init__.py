"""Propose-Reduce: Seq Mask R-CNN, video instance segmentation by sequence proposals (ICCV 2021)."""

from . import config, inclusive_boxes  # registers options and anchors
from . import variants as _variants  # noqa: F401  registers what variants share
from .convert import convert
from .model import SeqMaskRCNN
from .roi_heads import SeqPropROIHeads

__all__ = ["SeqMaskRCNN", "SeqPropROIHeads", "config", "convert", "inclusive_boxes"]
