"""Metrics, result files and their validation: plain functions over files and arrays."""

from .davis import evaluate_davis, evaluate_davis_maps
from .errors import GroundTruthError, ResultFileError
from .region_boundary import frame_measures, mask_measures, sequence_measures, series_statistics
from .results import (
    voc_palette,
    write_json_atomically,
    write_label_map,
    write_sequence,
    write_text_atomically,
    write_ytvis_results,
    zip_folder,
)
from .ytvis import evaluate_ytvis
from .ytvos import evaluate_ytvos

__all__ = [
    "GroundTruthError",
    "ResultFileError",
    "evaluate_davis",
    "evaluate_davis_maps",
    "evaluate_ytvis",
    "evaluate_ytvos",
    "frame_measures",
    "mask_measures",
    "sequence_measures",
    "series_statistics",
    "voc_palette",
    "write_json_atomically",
    "write_label_map",
    "write_sequence",
    "write_text_atomically",
    "write_ytvis_results",
    "zip_folder",
]
