"""The one evaluator: collects videos, writes the benchmark's result files, scores what it can."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from vis_metrics.bootstrap import bootstrap_davis, bootstrap_ytvis
from vis_metrics.davis import evaluate_davis, evaluate_davis_maps
from vis_metrics.files.writing import write_label_map, write_ytvis_results, zip_folder
from vis_metrics.identity import evaluate_identity
from vis_metrics.validate import (
    validate_davis_results,
    validate_ytvis_results,
    validate_ytvos_results,
)
from vis_metrics.ytvis import evaluate_ytvis
from vis_metrics.ytvos import evaluate_ytvos

from ..structures import InputError, VideoResult
from .video_records import VideoRecords, result_from_json, result_to_json

logger = logging.getLogger(__name__)

EVALUATOR_TYPES = ("ytvis", "davis_2016", "davis_semi", "davis_unsup", "ytvos")


class VideoEvaluator(DatasetEvaluator):
    """Evaluates VideoResults on one data set.

    Every rank writes its videos as they are finished; at the end rank 0 gathers them, writes what
    other machines computed, validates and scores. Metrics are x 100 under names without dashes.

    Args:
        metadata: of the data set: ``evaluator_type``, the id maps, ground-truth places.
        output_folder: for the result files; None writes nothing (then only sets with ground truth
            in memory, or ``ytvis``, can be scored).
        foreground_thresh: tracks that ``davis_2016`` unites.
        max_ids: limit of ``davis_unsup``.
        num_workers: processes for J and F.
        bootstrap: draws of videos for a 95 % interval of AP or J&F; 0 leaves it out.
        fingerprint, resume: see ``VideoRecords``.

    Raises:
        InputError: unknown evaluator type.
    """

    def __init__(
        self,
        metadata: Any,
        output_folder: str | Path | None = None,
        *,
        foreground_thresh: float = 0.0,
        max_ids: int = 20,
        num_workers: int = 0,
        bootstrap: int = 0,
        fingerprint: str = "",
        resume: bool = False,
    ) -> None:
        self.metadata = metadata
        self.kind = metadata.get("evaluator_type", None)
        if self.kind not in EVALUATOR_TYPES:
            raise InputError(
                f"data set {metadata.get('name', '?')}: evaluator type {self.kind!r} is none of "
                f"{', '.join(EVALUATOR_TYPES)}"
            )
        self.folder = None if output_folder is None else Path(output_folder)
        self.foreground_thresh = foreground_thresh
        self.max_ids = max_ids
        self.num_workers = num_workers
        self.bootstrap = bootstrap
        self.records = VideoRecords(self.folder, fingerprint=fingerprint, resume=resume)
        self._videos: list[dict[str, Any]] = []

    # Collecting ----------------------------------------------------------------------------------

    def reset(self) -> None:
        self._videos = []
        if comm.is_main_process():
            self.records.prepare()
        comm.synchronize()

    def finished(self, item: Mapping[str, Any]) -> bool:
        """True if the video of a test item was finished before; it is then taken as it is."""
        if not self.records.has(item["video_id"]):
            return False
        self._videos.append(self._description(item))
        return True

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[VideoResult]) -> None:
        """Take the results of test items, write their PNGs, keep them for the end."""
        for item, result in zip(inputs, outputs):
            self._check(item, result)
            video = self._description(item)
            self._write_maps(video, result)
            self.records.add(item["video_id"], result)
            self._videos.append(video)

    @staticmethod
    def _description(item: Mapping[str, Any]) -> dict[str, Any]:
        keys = ("video_id", "name", "frame_names", "height", "width", "length", "scored_frames")
        return {key: item[key] for key in keys if key in item}

    @staticmethod
    def _check(item: Mapping[str, Any], result: VideoResult) -> None:
        wanted = (item["height"], item["width"]), item["length"]
        if (tuple(result.size), result.length) != wanted:
            raise ValueError(
                f"video {item.get('name', item['video_id'])}: the result has size {result.size} "
                f"and {result.length} frames, the data set says {wanted[0]} and {wanted[1]}"
            )

    # Writing -------------------------------------------------------------------------------------

    @property
    def _maps_folder(self) -> Path | None:
        """Folder of the indexed PNGs; None for benchmarks that want json."""
        if self.folder is None or self.kind == "ytvis":
            return None
        return self.folder / ("Annotations" if self.kind == "ytvos" else "results")

    def _maps(self, result: VideoResult) -> Any:
        """Label maps as the benchmark wants them, one per frame."""
        if self.kind == "davis_2016":
            return (m.astype(np.uint8) for m in result.foreground(self.foreground_thresh))
        return result.label_maps(self.max_ids if self.kind == "davis_unsup" else None)

    def _write_maps(self, video: dict[str, Any], result: VideoResult) -> None:
        if self._maps_folder is None:
            return
        scored = video.get("scored_frames")
        wanted = None if scored is None else set(scored)
        for index, labels in enumerate(self._maps(result)):
            if wanted is None or index in wanted:
                name = f"{video['frame_names'][index]}.png"
                write_label_map(self._maps_folder / video["name"] / name, labels)

    # Scoring -------------------------------------------------------------------------------------

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Gather, write, score; returns ``{"segm": {...}}`` or ``{"vos": {...}}`` on rank 0."""
        own = [(v, None) for v in self._videos]
        if comm.get_world_size() > 1:
            own = [(v, result_to_json(self.records.get(v["video_id"]))) for v in self._videos]
            gathered = comm.gather(own, dst=0)
            if not comm.is_main_process():
                return None
            own = [pair for part in gathered for pair in part]
            for video, data in own:
                self._receive(video, data)
        videos = sorted((v for v, _ in own), key=lambda v: str(v["video_id"]).zfill(12))
        if not videos:
            logger.warning("no video was evaluated: the data set %s is empty", self._name)
            return {}
        score = self._score_tracks if self.kind == "ytvis" else self._score_maps
        return score(videos)

    def _receive(self, video: dict[str, Any], data: dict[str, Any]) -> None:
        """Keep a video of another rank; write its PNGs if that rank has another file system."""
        if not self.records.has(video["video_id"]):
            result = result_from_json(data)
            self.records.add(video["video_id"], result)
            folder = self._maps_folder
            if folder is not None and not (folder / video["name"]).is_dir():
                self._write_maps(video, result)

    @property
    def _name(self) -> str:
        return self.metadata.get("name", "?")

    def _ytvis_entries(self, videos: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        to_id = {v: k for k, v in self.metadata.thing_dataset_id_to_contiguous_id.items()}
        return [
            {
                "video_id": video["video_id"],
                "category_id": to_id[category],
                "score": score,
                "segmentations": track.masks,
            }
            for video in videos
            for track in self.records.get(video["video_id"]).tracks
            if track.visible_frames
            for category, score in sorted(track.category_scores.items())
        ]

    def _score_tracks(self, videos: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
        entries = self._ytvis_entries(videos)
        if self.folder is not None:
            file = self.folder / "results.json"
            write_ytvis_results(entries, file, zipped=True)
            logger.info("results: %s; for a server: %s", file, file.with_suffix(".zip"))
        truth = self._ground_truth("json_file")
        if truth is None:
            logger.info("%s has no public ground truth: upload the zip to its server", self._name)
            return {}
        validate_ytvis_results(entries, truth)
        stats = evaluate_ytvis(truth, entries)
        keys = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100")
        scores = {key: _percent(stats[key]) for key in keys}
        if self.bootstrap:
            interval = bootstrap_ytvis(truth, entries, samples=self.bootstrap)
            scores.update(AP_low=_percent(interval.low), AP_high=_percent(interval.high))
        identity = evaluate_identity(truth, entries)
        scores.update(IDF1=_percent(identity["IDF1"]), IDSW=float(identity["IDSW"]))
        per_category = {f"AP-{name}": _percent(v) for name, v in stats["per_category"].items()}
        return {"segm": {**scores, **per_category}}

    def _score_maps(self, videos: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
        names = [video["name"] for video in videos]
        if self._maps_folder is not None:
            archive = zip_folder(self._maps_folder, with_folder=self.kind == "ytvos")
            logger.info("results: %s", archive)
        protocol = {"davis_2016": "2016", "davis_semi": "semi", "davis_unsup": "unsup"}
        truth = self._ground_truth("gt_root")
        if truth is None:
            logger.info("%s has no public ground truth: upload the zip to its server", self._name)
            return {}
        if isinstance(truth, Mapping):
            results = {
                v["name"]: np.stack(list(self._maps(self.records.get(v["video_id"]))))
                for v in videos
            }
            chosen = {name: truth[name] for name in names}
            stats = evaluate_davis_maps(chosen, results, protocol=protocol[self.kind])
        elif self._maps_folder is None:
            raise InputError(f"scoring {self._name} needs an output folder for its PNGs")
        elif self.kind == "ytvos":
            validate_ytvos_results(self._maps_folder, self.metadata.meta_file)
            stats = evaluate_ytvos(Path(truth), self._maps_folder, meta=self.metadata.meta_file)
            return {
                "vos": {
                    k.replace("-", "_"): _percent(v)
                    for k, v in stats.items()
                    if isinstance(v, float)
                }
            }
        else:
            validate_davis_results(
                self._maps_folder, Path(truth), protocol=protocol[self.kind], sequences=names
            )
            stats = evaluate_davis(
                Path(truth),
                self._maps_folder,
                protocol=protocol[self.kind],
                sequences=names,
                num_workers=self.num_workers,
            )
        scores = {
            "J&F": _percent(stats["J&F-Mean"]),
            **{
                key.replace("-Mean", "").replace("-", "_"): _percent(stats[key])
                for key in ("J-Mean", "F-Mean", "J-Recall", "J-Decay", "F-Recall", "F-Decay")
            },
        }
        if self.bootstrap:
            interval = bootstrap_davis(stats, samples=self.bootstrap)
            scores["J&F_low"], scores["J&F_high"] = map(_percent, (interval.low, interval.high))
        per_object = {
            f"J&F-{name}": _percent((row["J-Mean"] + row["F-Mean"]) / 2)
            for name, row in stats["per_object"].items()
        }
        return {"vos": {**scores, **per_object}}

    def _ground_truth(self, key: str) -> Any:
        """The ground truth in memory, else the place that the metadata names, else None."""
        in_memory = self.metadata.get("ground_truth_fn", None)
        return in_memory() if in_memory is not None else self.metadata.get(key, None)


def _percent(value: float | None) -> float:
    return float("nan") if value is None or value == -1 else 100 * value


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | Path | None, *, fingerprint: str = ""
) -> VideoEvaluator:
    """Build the evaluator of a registered data set from the ``TEST`` options."""
    return VideoEvaluator(
        MetadataCatalog.get(dataset_name),
        output_folder,
        foreground_thresh=cfg.TEST.FOREGROUND_THRESH,
        max_ids=cfg.TEST.MAX_IDS,
        num_workers=cfg.TEST.METRIC_WORKERS,
        bootstrap=cfg.TEST.BOOTSTRAP,
        fingerprint=fingerprint,
        resume=cfg.TEST.RESUME,
    )
