"""MSN: a detector and a propagator joined by mask selection, run forward and backward."""

from . import config
from . import convert as _convert  # noqa: F401  registers the weight formats
from . import variants as _variants  # noqa: F401  registers what variants share
from .cascade import OfficialCascadeROIHeads
from .detector import MSNDetector
from .mask_selection import MaskSelectionNetwork
from .model import MSN
from .reclassifier import CropClassifier

__all__ = [
    "MSN",
    "CropClassifier",
    "MSNDetector",
    "MaskSelectionNetwork",
    "OfficialCascadeROIHeads",
    "config",
]
