"""What lies in the OUTPUT_DIR of a training or an evaluation, read back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..config import get_cfg, load_config
from ..data.catalog.registration import load_videos
from ..engine.inference import results_folder
from ..engine.training_hooks import read_metrics
from ..evaluation.video_records import VideoRecords
from ..structures import InputError, VideoResult


@dataclass
class TestSet:
    """One evaluated data set.

    Attributes:
        name: registered name.
        folder: its result files.
        scores: x 100, by the names of the log.
        problem: why its videos cannot be shown, "" if they can.
    """

    name: str
    folder: Path
    scores: dict[str, float] = field(default_factory=dict)
    problem: str = ""

    __test__ = False

    @cached_property
    def videos(self) -> list[dict[str, Any]]:
        """The data set's videos; empty, with ``problem`` set, where they are not at hand."""
        try:
            return load_videos(self.name)
        except InputError as error:
            self.problem = str(error)
            return []

    @property
    def metadata(self) -> Any:
        """Metadata of the registered set."""
        return MetadataCatalog.get(self.name)

    @property
    def kind(self) -> str:
        """Evaluator type."""
        return str(self.metadata.get("evaluator_type", ""))

    @property
    def class_names(self) -> list[str]:
        return list(self.metadata.get("thing_classes", None) or ())

    def truth(self) -> Any:
        """Ground truth of an evaluator of tracks: a dict or a file; None without one."""
        in_memory = self.metadata.get("ground_truth_fn", None)
        return in_memory() if in_memory is not None else self.metadata.get("json_file", None)

    def result(self, video: dict[str, Any]) -> VideoResult | None:
        """The result of a video, None if it was not evaluated."""
        records = VideoRecords(self.folder, resume=True)
        if not records.usable(video["video_id"], _size(video), video["length"]):
            return None
        return records.get(video["video_id"])


def _size(video: dict[str, Any]) -> tuple[int, int]:
    return video["height"], video["width"]


class RunFolder:
    """The OUTPUT_DIR of a run.

    Raises:
        InputError: there is no config.yaml in it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        if not (self.folder / "config.yaml").is_file():
            raise InputError(
                f"{self.folder}: no config.yaml here; give the OUTPUT_DIR of a training or an "
                "evaluation"
            )
        self.cfg: CfgNode = load_config(
            self.folder / "config.yaml", ["MODEL.DEVICE", "cpu"], to_build=False
        )

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def system(self) -> str:
        return str(self.cfg.MODEL.META_ARCHITECTURE)

    @cached_property
    def rows(self) -> list[dict[str, float]]:
        """Rows of metrics.json; empty for an evaluation alone."""
        return read_metrics(self.folder / "metrics.json")

    @cached_property
    def sets(self) -> list[TestSet]:
        """The evaluated sets, with their scores."""
        file = self.folder / "scores.json"
        try:
            scores = json.loads(file.read_text()) if file.is_file() else {}
        except ValueError:
            scores = {}
        return [
            TestSet(name, results_folder(self.folder, name), _flat(scores.get(name) or {}))
            for name in self.cfg.DATASETS.TEST
        ]

    def changes(self, base: CfgNode | None = None) -> list[tuple[str, str, str]]:
        """Options that differ from ``base`` (the defaults without one): key, value, base value."""
        return config_changes(self.cfg, base or get_cfg())


def config_changes(cfg: CfgNode, base: CfgNode, prefix: str = "") -> list[tuple[str, str, str]]:
    """Return (key, value, value in ``base``) of every option that differs."""
    rows: list[tuple[str, str, str]] = []
    for key, value in sorted(cfg.items()):
        other = base.get(key, None)
        if isinstance(value, CfgNode) and isinstance(other, CfgNode):
            rows += config_changes(value, other, f"{prefix}{key}.")
        elif _plain(value) != _plain(other):
            rows.append((prefix + key, str(value), str(other)))
    return rows


def _plain(value: Any) -> Any:
    """Tuples as lists: a YAML file knows no difference."""
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _flat(scores: dict[str, Any]) -> dict[str, float]:
    """Scores without their task; several tasks keep theirs before the name."""
    tasks = {task: values for task, values in scores.items() if isinstance(values, dict)}
    if len(tasks) == 1:
        return dict(next(iter(tasks.values())))
    return {f"{task} {name}": v for task, values in tasks.items() for name, v in values.items()}
