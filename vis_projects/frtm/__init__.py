"""FRTM: fast and robust target models for video object segmentation (CVPR 2020)."""

from . import config  # registers the options
from . import convert as _convert  # noqa: F401  registers the weight formats
from .model import FRTM
from .propagator import FRTMPropagator
from .trunk import FRTMTrunk

__all__ = ["FRTM", "FRTMPropagator", "FRTMTrunk", "config"]
