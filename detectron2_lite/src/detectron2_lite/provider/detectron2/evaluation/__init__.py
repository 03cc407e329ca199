"""Evaluators, and running a model over a data set for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detectron2.evaluation.evaluator import (
    DatasetEvaluator,
    DatasetEvaluators,
    inference_context,
    inference_on_dataset,
)
from detectron2.evaluation.testing import (
    print_csv_format,
    verify_results,
)

if TYPE_CHECKING:
    from detectron2.evaluation.coco_evaluation import COCOEvaluator

__all__ = [
    "COCOEvaluator",
    "DatasetEvaluator",
    "DatasetEvaluators",
    "inference_context",
    "inference_on_dataset",
    "print_csv_format",
    "verify_results",
]


def __getattr__(name: str):
    # It needs the data catalogues and pycocotools; most users of this package do not.
    if name == "COCOEvaluator":
        from detectron2.evaluation.coco_evaluation import COCOEvaluator

        return COCOEvaluator
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
