"""FeatureMatch: masks carried on by nearest neighbours among pretrained features; no training."""

from .model import FeatureMatch
from .propagator import FeatureMatchPropagator

__all__ = ["FeatureMatch", "FeatureMatchPropagator"]
