"""The evaluator of videos and its records; the metrics themselves are ``vis_metrics``."""

from __future__ import annotations

from typing import Any

from . import former_names
from .run_results import RunResults
from .video_evaluator import FailedVideo, VideoEvaluator, build_evaluator

__all__ = ["FailedVideo", "RunResults", "VideoEvaluator", "build_evaluator"]


def __getattr__(name: str) -> Any:
    return former_names.forward(name)
