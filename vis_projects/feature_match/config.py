"""Options of FeatureMatch, under ``MODEL.FEATURE_MATCH``; all values are chosen (docs say how)."""

from __future__ import annotations

from detectron2.config import CfgNode

from ..config import register_config


@register_config("feature_match")
def add_config(cfg: CfgNode) -> None:
    """Add the options of FeatureMatch. Its trunk is ``MODEL.BACKBONE`` (``MODEL.TIMM``)."""
    options = cfg.MODEL.FEATURE_MATCH = CfgNode()
    # Maps that are compared, brought to the finest grid and to unit length, and their weights.
    options.LEVELS = ("res3", "res4")
    options.LEVEL_WEIGHTS = (1.0, 1.0)
    # A cell takes its label from this many nearest cells of the memory, weighted by a softmax of
    # SHARPNESS times the similarity.
    options.TOP_K = 5
    options.SHARPNESS = 7.0
    # Only cells of the frame before that lie within this many rows and columns are compared; 0
    # compares all. References are always compared as a whole.
    options.WINDOW = 16
    # Frames kept beside the frame before: the first, and the newest others in which an object
    # entered or was corrected.
    options.MAX_REFERENCES = 4
    # Megabytes of similarities that are held at once, at most.
    options.CHUNK_MB = 32.0
