"""Drawn data: moving shapes (every quickstart) and dead leaves (to learn matching)."""

from .moving_shapes import (
    SyntheticLabels,
    SyntheticOptions,
    SyntheticSource,
    label_map_ground_truth,
    load_synthetic,
    parse_name,
    register_standard_sets,
    register_synthetic,
    scene_of,
    ytvis_ground_truth,
)

__all__ = [
    "SyntheticLabels",
    "SyntheticOptions",
    "SyntheticSource",
    "label_map_ground_truth",
    "load_synthetic",
    "parse_name",
    "register_standard_sets",
    "register_synthetic",
    "scene_of",
    "ytvis_ground_truth",
]
