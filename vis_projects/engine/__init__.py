"""Training, evaluation and checkpoints, over Detectron2's engine."""

from .distributed import run_distributed
from .inference import evaluate, make_evaluator, score_table
from .weights import load_weights

__all__ = ["evaluate", "load_weights", "make_evaluator", "run_distributed", "score_table"]
