"""Metrics of video segmentation, result files and validation: functions over files and arrays.

Names are imported when they are used, so that ``import vis_metrics`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PLACES = {
    "bootstrap": (
        "Interval",
        "bootstrap_davis",
        "bootstrap_ytvis",
    ),
    "davis": (
        "evaluate_davis",
        "evaluate_davis_maps",
    ),
    "errors": (
        "GroundTruthError",
        "InputError",
        "ResultFileError",
    ),
    "files.writing": (
        "read_palette",
        "voc_palette",
        "write_json_atomically",
        "write_label_map",
        "write_sequence",
        "write_text_atomically",
        "write_ytvis_results",
        "zip_folder",
    ),
    "identity": (
        "evaluate_identity",
        "identity_counts",
        "identity_of_label_maps",
    ),
    "region_boundary": (
        "frame_measures",
        "mask_measures",
        "sequence_measures",
        "series_statistics",
    ),
    "track_errors": (
        "ErrorReport",
        "TrackError",
        "analyse_errors",
    ),
    "validate": (
        "validate_davis_results",
        "validate_ytvis_results",
        "validate_ytvos_results",
    ),
    "ytvis": ("evaluate_ytvis",),
    "ytvos": ("evaluate_ytvos",),
}
_PLACE_OF = {name: place for place, names in _PLACES.items() for name in names}

__all__ = ["__version__", *sorted(_PLACE_OF)]


def __getattr__(name: str) -> Any:
    if name not in _PLACE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_PLACE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
