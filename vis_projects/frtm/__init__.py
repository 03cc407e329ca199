"""FRTM: fast and robust target models for video object segmentation (CVPR 2020)."""

from . import config, leaves  # registers options and data sets
from .model import FRTM
from .propagator import FRTMPropagator
from .trunk import FRTMTrunk

__all__ = ["FRTM", "FRTMPropagator", "FRTMTrunk", "config", "leaves"]
