"""SRNet: instances and their motion from spatial relations, in one stage (Ying et al. 2021)."""

from ..modeling.backbones import small_backbone as _small_backbone  # noqa: F401  registers the quickstart's
from . import config as _config  # noqa: F401  registers the options
from . import convert as _convert  # noqa: F401  registers the weight formats
from . import encoder as _encoder  # noqa: F401  registers the backbone
from . import variants as _variants  # noqa: F401  registers what variants share
from .model import SRNet

__all__ = ["SRNet"]
