"""Metrics, result files and their validation: plain functions over files and arrays."""

from .bootstrap import Interval, bootstrap_davis, bootstrap_ytvis
from .davis import evaluate_davis, evaluate_davis_maps
from .errors import GroundTruthError, ResultFileError
from .identity import evaluate_identity, identity_counts, identity_of_label_maps
from .region_boundary import frame_measures, mask_measures, sequence_measures, series_statistics
from .results import (
    read_palette,
    voc_palette,
    write_json_atomically,
    write_label_map,
    write_sequence,
    write_text_atomically,
    write_ytvis_results,
    zip_folder,
)
from .validate import validate_davis_results, validate_ytvis_results, validate_ytvos_results
from .video_evaluator import VideoEvaluator, build_evaluator
from .ytvis import evaluate_ytvis
from .ytvos import evaluate_ytvos

__all__ = [
    "GroundTruthError",
    "Interval",
    "ResultFileError",
    "VideoEvaluator",
    "bootstrap_davis",
    "bootstrap_ytvis",
    "build_evaluator",
    "evaluate_davis",
    "evaluate_davis_maps",
    "evaluate_identity",
    "evaluate_ytvis",
    "evaluate_ytvos",
    "frame_measures",
    "identity_counts",
    "identity_of_label_maps",
    "mask_measures",
    "read_palette",
    "sequence_measures",
    "series_statistics",
    "validate_davis_results",
    "validate_ytvis_results",
    "validate_ytvos_results",
    "voc_palette",
    "write_json_atomically",
    "write_label_map",
    "write_sequence",
    "write_text_atomically",
    "write_ytvis_results",
    "zip_folder",
]
