"""The one evaluator: collects videos, writes the benchmark's result files, scores what it can."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from vis_metrics.bootstrap import Metric, ap_metric, jf_metric
from vis_metrics.davis import evaluate_davis, evaluate_davis_maps
from vis_metrics.files.names import natural_key
from vis_metrics.files.writing import write_text_atomically, write_ytvis_results
from vis_metrics.validate import validate_davis_results, validate_ytvos_results
from vis_metrics.ytvis import match_tracks
from vis_metrics.ytvos import evaluate_ytvos

from ..structures import InputError, VideoResult
from ..structures.exports import describe
from .benchmark_scores import group_scores, mask_scores, track_scores
from .result_files import LabelMapFolder, remove_outcome, remove_parts, write_manifest
from .video_records import VideoRecords, result_from_json, result_to_json

logger = logging.getLogger(__name__)

EVALUATOR_TYPES = ("ytvis", "davis_2016", "davis_semi", "davis_unsup", "ytvos")
PROTOCOLS = {"davis_2016": "2016", "davis_semi": "semi", "davis_unsup": "unsup"}
SERVERS = ("ytvis_", "ovis_", "davis_", "youtube_vos_", "mose_")  # benchmarks that have one


@dataclass(frozen=True)
class FailedVideo:
    """What stands for the result of a video that could not be segmented."""

    reason: str


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
        num_workers: processes for J and F; None takes the cores.
        bootstrap: draws of videos for a 95 % interval of AP or J&F; 0 leaves it out.
        score_incomplete: score without the videos that failed; otherwise a failure leaves the
            data set without scores.
        system: name for the result files.
        fingerprint, resume: see ``VideoRecords``.

    Attributes:
        failed: after ``evaluate`` on rank 0, the videos that failed and why.

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
        num_workers: int | None = None,
        bootstrap: int = 0,
        score_incomplete: bool = False,
        system: str = "",
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
        self.protocol = metadata.get("protocol", None) or PROTOCOLS.get(self.kind, "")
        self.folder = None if output_folder is None else Path(output_folder)
        self.foreground_thresh = foreground_thresh
        self.max_ids = max_ids
        self.num_workers = num_workers
        self.bootstrap = bootstrap
        self.score_incomplete = score_incomplete
        self.system = system
        self.failed: dict[str, str] = {}
        self.records = VideoRecords(self.folder, fingerprint=fingerprint, resume=resume)
        self._videos: list[dict[str, Any]] = []
        self._metric: Callable[[], tuple[str, Metric, int]] | None = None

    # Collecting ----------------------------------------------------------------------------------

    def reset(self) -> None:
        self._videos, self.failed = [], {}
        if comm.is_main_process():
            anew = self.records.prepare()
            if self.folder is not None:
                remove_parts(self.folder)
                if anew:
                    remove_outcome(self.folder)
                    if self._maps_folder is not None:
                        self._maps_folder.remove_others(())
        comm.synchronize()

    def finished(self, item: Mapping[str, Any]) -> bool:
        """True if the video of a test item was finished before; it is then taken as it is."""
        size = (item["height"], item["width"])
        if not self.records.usable(item["video_id"], size, item["length"]):
            return False
        video = self._description(item)
        if self._maps_folder is not None:  # they may be missing, or of other TEST options
            self._write_maps(video, self.records.get(item["video_id"]))
        self._videos.append(video)
        return True

    def process(
        self, inputs: Sequence[dict[str, Any]], outputs: Sequence[VideoResult | FailedVideo]
    ) -> None:
        """Take the results of test items, write their PNGs, keep them for the end."""
        for item, result in zip(inputs, outputs):
            video = self._description(item)
            if isinstance(result, FailedVideo):
                self.failed[str(video["name"])] = result.reason
                continue
            self._check(item, result)
            self._write_maps(video, result)
            self.records.add(item["video_id"], self._named(video, result))
            self._videos.append(video)

    @staticmethod
    def _description(item: Mapping[str, Any]) -> dict[str, Any]:
        keys = ("video_id", "name", "frame_names", "height", "width", "length", "scored_frames")
        return {"name": item["video_id"], **{key: item[key] for key in keys if key in item}}

    def _named(self, video: Mapping[str, Any], result: VideoResult) -> VideoResult:
        """Add the names and ids of the data set to a result."""
        to_id = self._category_ids()
        return replace(
            result,
            name=str(video["name"]),
            frame_names=video.get("frame_names"),
            class_names=self.metadata.get("thing_classes", None),
            category_ids=[to_id[k] for k in range(len(to_id))] if to_id else None,
        )

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
    def _maps_folder(self) -> LabelMapFolder | None:
        """Folder of the indexed PNGs; None for benchmarks that want json."""
        if self.folder is None or self.kind == "ytvis":
            return None
        return LabelMapFolder(self.folder, "Annotations" if self.kind == "ytvos" else "results")

    def _maps(self, result: VideoResult) -> Iterator[np.ndarray]:
        """Label maps as the benchmark wants them, one per frame."""
        if self.kind == "davis_2016":
            return (m.astype(np.uint8) for m in result.foreground(self.foreground_thresh))
        return result.label_maps(self.max_ids if self.kind == "davis_unsup" else None)

    def _write_maps(self, video: dict[str, Any], result: VideoResult) -> None:
        folder = self._maps_folder
        if folder is None:
            return
        scored = video.get("scored_frames")
        wanted = range(result.length) if scored is None else set(scored)
        maps = (labels for index, labels in enumerate(self._maps(result)) if index in wanted)
        names = [name for index, name in enumerate(video["frame_names"]) if index in wanted]
        folder.write(video["name"], maps, names)

    # Scoring -------------------------------------------------------------------------------------

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Gather, write, score; returns ``{"segm": {...}}`` or ``{"vos": {...}}`` on rank 0."""
        videos = self._videos
        if comm.get_world_size() > 1:
            own = [(v, result_to_json(self.records.get(v["video_id"]))) for v in videos]
            gathered = comm.gather((own, self.failed), dst=0)
            if not comm.is_main_process():
                return None
            for part, failed in gathered:
                self.failed.update(failed)
                for video, data in part:
                    self._receive(video, data)
            videos = [video for part, _ in gathered for video, _ in part]
        videos = sorted(videos, key=lambda v: natural_key(str(v["video_id"])))
        if self.folder is not None and (videos or self.failed):
            write_manifest(self.folder, videos, self.failed)
        for name, reason in self.failed.items():
            logger.error("video %s failed: %s", name, reason)
        if not videos:
            if not self.failed:
                logger.warning("no video was evaluated: the data set %s is empty", self._name)
            return {}
        return self._score_tracks(videos) if self.kind == "ytvis" else self._score_maps(videos)

    def _receive(self, video: dict[str, Any], data: dict[str, Any]) -> None:
        """Keep a video of another rank; write its PNGs if that rank has another file system."""
        if not self.records.has(video["video_id"]):
            result = result_from_json(data)
            self.records.add(video["video_id"], result)
            folder = self._maps_folder
            if folder is not None and not (folder.maps / video["name"]).is_dir():
                self._write_maps(video, result)

    def metric(self) -> tuple[str, Metric, int] | None:
        """AP or J&F (x 100) of what was scored as a function of how often each video counts.

        Returns:
            Its name, the function and the number of videos; None if nothing was scored or the
            benchmark's score is not of that kind (``ytvos``).
        """
        return None if self._metric is None else self._metric()

    @property
    def _name(self) -> str:
        return self.metadata.get("name", "?")

    def _can_be_scored(self, truth: Any, results: Path | None) -> bool:
        """False, with a line that says why, if there is nothing to compare with."""
        if truth is None:
            if self._name.startswith(SERVERS):
                logger.info(
                    "%s has no public ground truth: upload %s to its server", self._name, results
                )
            else:
                logger.info("%s has no ground truth; results: %s", self._name, results)
            return False
        if self.failed and not self.score_incomplete:
            logger.error(
                "%s: %d videos failed, so there is no score; TEST.SCORE_INCOMPLETE True scores "
                "the others, TEST.RESUME True goes on with what is missing",
                self._name,
                len(self.failed),
            )
            return False
        return True

    def _category_ids(self) -> dict[int, int]:
        """The data set's own ids by contiguous category."""
        ids = self.metadata.get("thing_dataset_id_to_contiguous_id", None) or {}
        return {v: k for k, v in ids.items()}

    def _ytvis_entries(
        self, videos: Sequence[dict[str, Any]]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the result list in the data set's ids, and what ``video.json`` says of each video.

        Categories that the data set lacks are left out.
        """
        to_id = self._category_ids()
        entries: list[dict[str, Any]] = []
        descriptions, unknown = [], set()
        for video in videos:
            result = self._named(video, self.records.get(video["video_id"]))
            tracks = []
            for track in result.tracks:
                known = {c: s for c, s in track.category_scores.items() if c in to_id}
                unknown |= track.category_scores.keys() - known.keys()
                if known:
                    tracks.append(replace(track, category_scores=known))
            own, description = describe(
                replace(result, tracks=tracks), video["video_id"], first=len(entries)
            )
            entries += own
            descriptions.append(description)
        if unknown:
            logger.warning(
                "%s: tracks of categories that the data set lacks are left out: indices %s; has "
                "the model other classes?",
                self._name,
                ", ".join(map(str, sorted(unknown))),
            )
        return entries, descriptions

    def _score_tracks(self, videos: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
        entries, descriptions = self._ytvis_entries(videos)
        archive = None
        if self.folder is not None:
            file = self.folder / "results.json"
            archive = write_ytvis_results(entries, file, zipped=True)
            content = {"system": self.system, "data_set": self._name, "videos": descriptions}
            write_text_atomically(self.folder / "video.json", json.dumps(content))
            logger.info("results: %s; for a server: %s", file, archive)
        truth = self._ground_truth("json_file")
        if not self._can_be_scored(truth, archive):
            return {}
        if self.failed:
            truth = _only_videos(truth, [video["video_id"] for video in videos])
        self._metric = lambda: _ap_by_videos(truth, entries)
        return {"segm": track_scores(truth, entries, bootstrap=self.bootstrap)}

    def _score_maps(self, videos: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
        names = [video["name"] for video in videos]
        folder, archive = self._maps_folder, None
        if folder is not None:
            folder.remove_others(names)
            archive = folder.zip(names, with_folder=self.kind == "ytvos")
            logger.info("results: %s", archive)
        truth = self._ground_truth("gt_root")
        if not self._can_be_scored(truth, archive):
            return {}
        if isinstance(truth, Mapping):
            results = {
                v["name"]: np.stack(list(self._maps(self.records.get(v["video_id"]))))
                for v in videos
            }
            chosen = {name: truth[name] for name in names}
            stats = evaluate_davis_maps(chosen, results, protocol=self.protocol)
            self._metric = lambda: ("J&F", *jf_metric(stats, scale=100))
            return {"vos": mask_scores(stats, bootstrap=self.bootstrap)}
        if folder is None:
            raise InputError(f"scoring {self._name} needs an output folder for its PNGs")
        if self.kind == "ytvos":
            return {"vos": group_scores(self._ytvos_stats(Path(truth), folder.maps, names))}
        options = {
            "protocol": self.protocol,
            "sequences": names,
            "frames": {v["name"]: v["frame_names"] for v in videos},
        }
        validate_davis_results(folder.maps, Path(truth), **options)
        stats = evaluate_davis(Path(truth), folder.maps, num_workers=self.num_workers, **options)
        self._metric = lambda: ("J&F", *jf_metric(stats, scale=100))
        return {"vos": mask_scores(stats, bootstrap=self.bootstrap)}

    def _ytvos_stats(self, truth: Path, results: Path, names: Sequence[str]) -> dict[str, Any]:
        """Only the videos of the set are scored: a local part of train has the meta.json of all."""
        meta = Path(self.metadata.meta_file)
        validate_ytvos_results(results, meta, chosen=names)
        return evaluate_ytvos(truth, results, meta=meta, videos=names, num_workers=self.num_workers)

    def _ground_truth(self, key: str) -> Any:
        """The ground truth in memory, else the place that the metadata names, else None."""
        in_memory = self.metadata.get("ground_truth_fn", None)
        return in_memory() if in_memory is not None else self.metadata.get(key, None)


def _ap_by_videos(truth: Any, entries: list[dict[str, Any]]) -> tuple[str, Metric, int]:
    matches = match_tracks(truth, entries)
    return "AP", ap_metric(matches, scale=100), len(matches.truth.videos)


def _only_videos(truth: Any, ids: Sequence[Any]) -> dict[str, Any]:
    """Return a YouTube-VIS ground truth cut to some videos."""
    if not isinstance(truth, Mapping):
        truth = json.loads(Path(truth).read_text(encoding="utf-8"))
    kept = set(ids)
    return {
        **truth,
        "videos": [v for v in truth["videos"] if v["id"] in kept],
        "annotations": [a for a in truth.get("annotations") or () if a["video_id"] in kept],
    }


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | Path | None, *, fingerprint: str = ""
) -> VideoEvaluator:
    """Build the evaluator of a registered data set from the ``TEST`` options."""
    return VideoEvaluator(
        MetadataCatalog.get(dataset_name),
        output_folder,
        foreground_thresh=cfg.TEST.FOREGROUND_THRESH,
        max_ids=cfg.TEST.MAX_IDS,
        num_workers=cfg.TEST.METRIC_WORKERS if cfg.TEST.METRIC_WORKERS >= 0 else None,
        bootstrap=cfg.TEST.BOOTSTRAP,
        score_incomplete=cfg.TEST.SCORE_INCOMPLETE,
        system=cfg.MODEL.META_ARCHITECTURE,
        fingerprint=fingerprint,
        resume=cfg.TEST.RESUME,
    )
