"""Evaluation of a model on every data set of ``DATASETS.TEST``."""

from __future__ import annotations

import hashlib
import logging
import math
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from tabulate import tabulate
from torch import nn

from vis_metrics.files.names import safe_name

from ..data import build_test_loader
from ..data.catalog.class_names import known_class_names
from ..data.class_check import check_test_classes, classes_key
from ..evaluation import FailedVideo, RunResults, VideoEvaluator, build_evaluator
from ..structures import InputError
from ..structures.errors import one_line

logger = logging.getLogger(__name__)


def evaluate(
    cfg: CfgNode,
    model: nn.Module | None,
    *,
    evaluator: DatasetEvaluator | None = None,
    failed: dict[str, str] | None = None,
    results: str | Path = "",
) -> dict[str, Any]:
    """Run ``model`` on every data set of ``DATASETS.TEST`` and log a table of its scores.

    Result files go to ``OUTPUT_DIR/inference/<data set>``, a safe name of it. With ``TEST.RESUME``
    videos that are finished there are not run again. A video that cannot be segmented is recorded
    and passed over.

    Args:
        model: None if there are ``results``.
        failed: takes the videos that failed, ``{"<data set>, <video>": reason}``.
        results: folder of ``vis run`` that is scored in the place of a model.

    Returns:
        On rank 0 the scores of the data set, or ``{data set: scores}`` if there are several.

    Raises:
        InputError: no data set to evaluate, or its files are missing or broken.
    """
    if not cfg.DATASETS.TEST:
        raise InputError("DATASETS.TEST names no data set: nothing to evaluate")
    key, classes = classes_key(cfg), getattr(model, "num_classes", None)
    if key and classes is not None:
        check_test_classes(cfg.DATASETS.TEST, classes, key)
        _warn_of_other_names(cfg, model)
    loaders = [build_test_loader(cfg, name) for name in cfg.DATASETS.TEST]  # fail before long work
    scores_of: dict[str, Any] = OrderedDict()
    for name, loader in zip(cfg.DATASETS.TEST, loaders):
        chosen = evaluator or make_evaluator(cfg, name, results_folder(cfg.OUTPUT_DIR, name))
        if isinstance(chosen, VideoEvaluator):
            loader = _Unfinished(loader, chosen)
            used = _recorded(results, name) if results else model
            scores = inference_on_dataset(_Guarded(used), loader, chosen)
            if failed is not None:
                failed.update({f"{name}, {video}": why for video, why in chosen.failed.items()})
        elif results:
            raise InputError(f"{name} is a set of stills: {results} holds results of videos")
        else:
            scores = inference_on_dataset(model, loader, chosen)
        scores_of[name] = scores
        if comm.is_main_process():
            logger.info("%s:\n%s", name, score_table(scores))
            print_csv_format(OrderedDict(scores))
    return next(iter(scores_of.values())) if len(scores_of) == 1 else scores_of


def _recorded(folder: str | Path, name: str) -> RunResults:
    return RunResults(folder, MetadataCatalog.get(name).get("thing_classes", None)).eval()


def results_folder(output_dir: str | Path, name: str) -> Path:
    """Return the folder for a data set's result files, inside ``output_dir`` whatever its name."""
    return Path(output_dir) / "inference" / safe_name(name)


class _Guarded(nn.Module):
    """A model whose bad videos come out as ``FailedVideo`` instead of ending everything.

    Faults of the program itself are raised as ever.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training  # what the evaluation restores at its end

    def forward(self, items: list[dict[str, Any]]) -> list[Any]:
        outputs = []
        for item in items:
            try:
                outputs += self.model([item])
            except Exception as error:
                reason = one_line(error)
                if reason is None:
                    raise
                logger.error("video %s: %s", item.get("name", item.get("video_id")), reason)
                outputs.append(FailedVideo(reason))
        return outputs


def _warn_of_other_names(cfg: CfgNode, model: nn.Module) -> None:
    """Say so where as many classes have other names than those that the weights know."""
    own = getattr(model, "class_names", None)
    for name in cfg.DATASETS.TEST if own else ():
        theirs = known_class_names(name)
        if theirs and len(theirs) == len(own) and list(own) != theirs:
            k = next(k for k in range(len(own)) if own[k] != theirs[k])
            logger.warning(
                "%s: its class %d is %s, the weights were trained with %s there", name, k + 1,
                theirs[k], own[k],
            )  # fmt: skip


def make_evaluator(cfg: CfgNode, name: str, folder: Path) -> DatasetEvaluator:
    """Return the evaluator of a data set: COCO's for stills, the VideoEvaluator for the rest."""
    if MetadataCatalog.get(name).get("evaluator_type", None) == "coco":
        from detectron2.evaluation import COCOEvaluator

        return COCOEvaluator(name, output_dir=str(folder), use_fast_impl=False)
    return build_evaluator(cfg, name, folder, fingerprint=fingerprint(cfg))


def fingerprint(cfg: CfgNode) -> str:
    """Return a digest of what a result depends on: the model's options and the weights' bytes."""
    digest = hashlib.sha256()
    for text in (cfg.MODEL.dump(), cfg.INPUT.dump()):
        digest.update(text.encode())
    if cfg.MODEL.WEIGHTS and PathManager.isfile(cfg.MODEL.WEIGHTS):
        with PathManager.open(cfg.MODEL.WEIGHTS, "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def score_table(scores: dict[str, dict[str, float]]) -> str:
    """Return the scores (x 100) as a table per task, per-class and per-object rows left out."""
    blocks = []
    for task, metrics in scores.items():
        main = {k: v for k, v in metrics.items() if "-" not in k}
        values = ["-" if math.isnan(v) else f"{v:.2f}" for v in main.values()]
        blocks.append(
            tabulate(
                [[task, *values]],
                headers=["", *main],
                tablefmt="pipe",
                disable_numparse=True,
                stralign="right",
            )
        )
    return "\n".join(blocks) or "no scores"


class _Unfinished:
    """A test loader without the videos that the evaluator has already."""

    def __init__(self, loader: Any, evaluator: VideoEvaluator) -> None:
        self.loader = loader
        self.evaluator = evaluator

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        skipped = 0
        for batch in self.loader:
            left = [item for item in batch if not self.evaluator.finished(item)]
            skipped += len(batch) - len(left)
            if left:
                yield left
        if skipped:
            logger.info("%d videos were finished before and are taken as they are", skipped)
