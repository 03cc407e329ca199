"""Registers the data sets whose folders are fixed by convention (datasets/README.md lists them)."""

from __future__ import annotations

from functools import partial
from typing import Any

from .catalog import Video, dataset_root, register_dataset
from .davis import SUBSETS as DAVIS_SUBSETS
from .davis import annotation_folder, load_davis
from .synthetic import register_synthetic

_DAVIS_TASKS = {
    2016: ("davis_2016", "vos"),
    2017: ("davis_semi", "vos"),
    2019: ("davis_unsup", "uvos"),
}


def _davis(year: int, subset: str) -> tuple[list[Video], dict[str, Any]]:
    root = dataset_root() / "DAVIS"
    videos = load_davis(root, year=year, subset=subset)
    gt_root = root / annotation_folder(year) / "480p"
    return videos, {"thing_classes": ["object"], "gt_root": str(gt_root)}


def register_builtin() -> None:
    """Register every known data set; names that exist already are skipped."""
    for year, subset in DAVIS_SUBSETS:
        evaluator_type, task = _DAVIS_TASKS[year]
        register_dataset(
            f"davis_{year}_{subset}",
            partial(_davis, year, subset),
            evaluator_type=evaluator_type,
            task=task,
        )
    for form in ("", "uvos_", "vos_", "stills_"):
        for split in ("train", "val"):
            register_synthetic(f"synthetic_{form}{split}")
