"""CrossVIS: online video instance segmentation, and CondInst on stills."""

from . import config, pyramid
from .condinst import CondInst
from .convert import convert
from .fcos import FCOS
from .model import CrossVIS
from .official_names import register_official_names

register_official_names()

__all__ = ["FCOS", "CondInst", "CrossVIS", "config", "convert", "pyramid"]
