"""The part of Detectron2's public API that video instance segmentation here needs."""

from __future__ import annotations

# The local tag keeps `version.split("+")[0]` equal to the official one and tells the two apart.
__version__ = "0.6+lite"
