"""CFBI: collaborative video object segmentation by foreground-background integration."""

from .config import add_config
from .model import CFBI
from .propagator import CFBIPropagator

__all__ = ["CFBI", "CFBIPropagator", "add_config"]
