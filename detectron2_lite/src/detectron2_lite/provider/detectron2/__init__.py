"""The part of Detectron2's public API that video instance segmentation here needs."""

from __future__ import annotations

import warnings

# fvcore scripts two functions when it is imported, which newer torch warns of in every process.
warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)

# The local tag keeps `version.split("+")[0]` equal to the official one and tells the two apart.
__version__ = "0.6+lite"
