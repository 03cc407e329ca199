"""CFBI: collaborative video object segmentation by foreground-background integration."""

from . import convert as _convert  # noqa: F401  registers the weight formats
from .config import add_config
from .model import CFBI
from .propagator import CFBIPropagator

__all__ = ["CFBI", "CFBIPropagator", "add_config"]
