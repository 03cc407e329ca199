"""FeatureMatch: masks carried on by nearest neighbours among pretrained features; no training."""

from . import config as _config  # noqa: F401  registers the options
from .model import FeatureMatch
from .propagator import FeatureMatchPropagator

__all__ = ["FeatureMatch", "FeatureMatchPropagator"]
