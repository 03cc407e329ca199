"""COCO AP of boxes and masks."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.structures import Boxes, BoxMode
from detectron2.structures import Instances as _Instances
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

from .evaluator import DatasetEvaluator

__all__ = ["COCOEvaluator", "instances_to_coco_json"]

_logger = logging.getLogger(__name__)
_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_TASKS = ("bbox", "segm")


class COCOEvaluator(DatasetEvaluator):
    """AP, AP50, AP75, APs, APm, APl (times 100, NaN where undefined) and AP of every class."""

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
        use_fast_impl: bool = True,
        kpt_oks_sigmas: Sequence[float] = (),
        allow_cached_coco: bool = True,
    ):
        """``tasks``: ``bbox``, ``segm``; by default what the predictions hold.

        ``distributed``: gather the predictions of all processes on rank 0. ``output_dir``: for
        ``instances_predictions.pth`` and ``coco_instances_results.json``; a data set without
        ``json_file`` needs it for a converted annotation file. ``max_dets_per_image``: default
        100. ``use_fast_impl`` and ``kpt_oks_sigmas`` are accepted and change nothing.
        """
        del use_fast_impl, kpt_oks_sigmas
        if isinstance(tasks, CfgNode):
            _logger.warning("COCOEvaluator derives the tasks from the predictions, not from a cfg")
            tasks = None
        unknown = set(tasks or ()) - set(_TASKS)
        if unknown:
            raise ValueError(f"COCOEvaluator knows the tasks {_TASKS}, not {sorted(unknown)}")
        self._tasks = tasks
        self._distributed = distributed
        self._output_dir = output_dir
        self._max_dets = 100 if max_dets_per_image is None else max_dets_per_image
        self._metadata = MetadataCatalog.get(dataset_name)
        if not hasattr(self._metadata, "json_file"):
            if output_dir is None:
                raise ValueError(
                    f"data set {dataset_name!r} has no json_file: give COCOEvaluator an "
                    "output_dir for a converted one"
                )
            path = os.path.join(output_dir, f"{dataset_name}_coco_format.json")
            self._metadata.json_file = path
            convert_to_coco_json(dataset_name, path, allow_cached=allow_cached_coco)
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco = COCO(PathManager.get_local_path(self._metadata.json_file))
        # The test splits of COCO come without annotations.
        self._do_evaluation = "annotations" in self._coco.dataset
        self._predictions = []
        self._results = OrderedDict()

    def reset(self) -> None:
        self._predictions = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Keep the instances of a batch: inputs need ``image_id``, outputs ``instances``."""
        for source, output in zip(inputs, outputs):
            if "instances" in output:
                instances = output["instances"].to(torch.device("cpu"))
                image_id = source["image_id"]
                found = instances_to_coco_json(instances, image_id)
                self._predictions.append({"image_id": image_id, "instances": found})

    def evaluate(self, img_ids: Sequence[int] | None = None) -> dict | None:
        """Score the gathered predictions (of ``img_ids`` only); {} on ranks other than 0."""
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            predictions = list(itertools.chain(*comm.gather(predictions, dst=0)))
            if not comm.is_main_process():
                return {}
        if not predictions:
            _logger.warning("COCOEvaluator did not receive predictions")
            return {}
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            path = os.path.join(self._output_dir, "instances_predictions.pth")
            with PathManager.open(path, "wb") as file:
                torch.save(predictions, file)
        self._results = OrderedDict()
        self._score(predictions, img_ids)
        return copy.deepcopy(self._results)

    def _score(self, predictions: list[dict], img_ids: Sequence[int] | None) -> None:
        detections = list(itertools.chain(*(p["instances"] for p in predictions)))
        tasks = self._tasks
        if tasks is None:
            masks = any("segmentation" in d for d in detections)
            tasks = ("bbox", "segm") if masks else ("bbox",)
        self._to_dataset_ids(detections)
        if self._output_dir:
            path = os.path.join(self._output_dir, "coco_instances_results.json")
            _logger.info("Saving results to %s", path)
            with PathManager.open(path, "w") as file:
                json.dump(detections, file)
        if not self._do_evaluation:
            _logger.info("Annotations are not available: nothing to score")
            return
        names = self._metadata.get("thing_classes")
        for task in sorted(tasks):
            scored = _coco_eval(
                self._coco, detections, task, max_dets=self._max_dets, img_ids=img_ids
            )
            self._results[task] = _derive_results(scored, task, class_names=names)

    def _to_dataset_ids(self, detections: list[dict]) -> None:
        """Replace contiguous category ids by the data set's own; in place."""
        id_map = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if id_map is None:
            return
        original = {v: k for k, v in id_map.items()}
        for detection in detections:
            category = detection["category_id"]
            if category not in original:
                raise ValueError(
                    f"a prediction has class {category}, but the data set "
                    f"{self._metadata.name!r} has only {len(original)} classes"
                )
            detection["category_id"] = original[category]


def instances_to_coco_json(instances: _Instances, img_id: int) -> list[dict]:
    """Detections on the CPU as COCO results: XYWH boxes, masks as RLE with str counts."""
    if len(instances) == 0:
        return []
    boxes = instances.pred_boxes
    boxes = boxes.tensor if isinstance(boxes, Boxes) else torch.as_tensor(boxes)
    boxes = BoxMode.convert(boxes.numpy(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    out = [
        {"image_id": img_id, "category_id": category, "bbox": box, "score": score}
        for category, box, score in zip(
            instances.pred_classes.tolist(), boxes, instances.scores.tolist()
        )
    ]
    if instances.has("pred_masks"):
        masks = instances.pred_masks
        masks = getattr(masks, "tensor", masks).numpy().astype(np.uint8)
        encoded = mask_util.encode(np.asfortranarray(masks.transpose(1, 2, 0)))
        for result, rle in zip(out, encoded):
            rle["counts"] = rle["counts"].decode("utf-8")
            result["segmentation"] = rle
    return out


def _coco_eval(
    ground_truth: COCO,
    detections: list[dict],
    task: str,
    *,
    max_dets: int,
    img_ids: Sequence[int] | None,
) -> COCOeval | None:
    """Run pycocotools' evaluation; None without detections."""
    if task == "segm":
        # With a box in the result, pycocotools would take the box's area for the size classes.
        detections = [{k: v for k, v in d.items() if k != "bbox"} for d in detections]
        detections = [d for d in detections if "segmentation" in d]
    if not detections:
        return None
    with contextlib.redirect_stdout(io.StringIO()):
        scored = COCOeval(ground_truth, ground_truth.loadRes(detections), task)
        # Sorted by pycocotools, so none may exceed the limit.
        scored.params.maxDets = [min(n, max_dets) for n in (1, 10, max_dets)]
        if img_ids is not None:
            scored.params.imgIds = img_ids
        scored.evaluate()
        scored.accumulate()
    return scored


def _mean_precision(precision: np.ndarray) -> float:
    """Mean x 100 over the defined entries of COCO's precision; NaN if there are none."""
    defined = precision[precision > -1]
    return float(defined.mean() * 100) if defined.size else float("nan")


def _derive_results(
    scored: COCOeval | None, task: str, *, class_names: Sequence[str] | None
) -> dict[str, float]:
    """The metrics of a task; per class ones if there is more than one class."""
    if scored is None:
        _logger.warning("No predictions from the model for %s", task)
        return dict.fromkeys(_METRICS, float("nan"))
    # IoU thresholds .5 to .95, recall, class, area (all, small, medium, large), limit on detections
    precision = scored.eval["precision"][..., -1]
    everything = precision[..., 0]
    thresholds = scored.params.iouThrs
    results = {
        "AP": _mean_precision(everything),
        "AP50": _mean_precision(everything[np.isclose(thresholds, 0.5)]),
        "AP75": _mean_precision(everything[np.isclose(thresholds, 0.75)]),
        "APs": _mean_precision(precision[..., 1]),
        "APm": _mean_precision(precision[..., 2]),
        "APl": _mean_precision(precision[..., 3]),
    }
    _logger.info("Evaluation results for %s:\n%s", task, create_small_table(results))
    if class_names is None or len(class_names) <= 1:
        return results
    assert len(class_names) == precision.shape[2], (
        f"{len(class_names)} class names for {precision.shape[2]} categories"
    )
    per_class = [(name, _mean_precision(everything[:, :, k])) for k, name in enumerate(class_names)]
    columns = [(f"{name}", f"{value:.3f}") for name, value in per_class]
    _logger.info("Per-category %s AP:\n%s", task, tabulate(columns, headers=("category", "AP")))
    results.update({f"AP-{name}": value for name, value in per_class})
    return results
