"""Training, evaluation and checkpoints, over Detectron2's engine."""

from ..weights import load_weights
from . import config as _config  # noqa: F401  registers its options
from .checkpointer import VideoCheckpointer
from .distributed import run_distributed
from .event_writers import register_event_writer
from .inference import evaluate, make_evaluator, score_table
from .showcase import write_overlay, write_scores
from .trainer import VideoTrainer

__all__ = [
    "VideoCheckpointer",
    "VideoTrainer",
    "evaluate",
    "load_weights",
    "make_evaluator",
    "register_event_writer",
    "run_distributed",
    "score_table",
    "write_overlay",
    "write_scores",
]
