"""CopyFirst: repeats the first mask. A baseline, an example, and a test of every contract."""

from .model import CopyFirst
from .propagator import CopyFirstPropagator

__all__ = ["CopyFirst", "CopyFirstPropagator"]
