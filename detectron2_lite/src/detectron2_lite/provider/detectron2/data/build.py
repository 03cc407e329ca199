"""Data loaders from a config or from a data set."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode as _CfgNode
from detectron2.config import configurable
from detectron2.utils.comm import get_world_size
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import create_small_table as _create_small_table
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset
from torch.utils.data.sampler import Sampler

from .catalog import DatasetCatalog, MetadataCatalog
from .common import AspectRatioGroupedDataset, DatasetFromList, MapDataset
from .dataset_mapper import DatasetMapper
from .detection_utils import check_metadata_consistency
from .samplers import InferenceSampler, RepeatFactorTrainingSampler, TrainingSampler

__all__ = [
    "build_batch_data_loader",
    "build_detection_test_loader",
    "build_detection_train_loader",
    "filter_images_with_only_crowd_annotations",
    "get_detection_dataset_dicts",
    "print_instances_class_histogram",
    "trivial_batch_collator",
    "worker_init_reset_seed",
]

_logger = logging.getLogger(__name__)


def filter_images_with_only_crowd_annotations(dataset_dicts: Sequence[dict]) -> list[dict]:
    """Return the dicts that have an annotation which is not a crowd."""
    kept = [d for d in dataset_dicts if any(a.get("iscrowd", 0) == 0 for a in d["annotations"])]
    _logger.info(
        "Removed %d images with no usable annotations. %d images left.",
        len(dataset_dicts) - len(kept),
        len(kept),
    )
    return kept


def print_instances_class_histogram(dataset_dicts: Sequence[dict], class_names: list[str]) -> None:
    """Log how many non-crowd instances each class has."""
    counts = Counter(
        a["category_id"]
        for d in dataset_dicts
        for a in d["annotations"]
        if a.get("iscrowd", 0) == 0
    )
    assert not counts or (min(counts) >= 0 and max(counts) < len(class_names)), (
        f"category ids must lie in 0..{len(class_names) - 1}, got {min(counts)}..{max(counts)}"
    )
    table = {name: counts[i] for i, name in enumerate(class_names)}
    table["total"] = sum(counts.values())
    _logger.info("Instances per category:\n%s", _create_small_table(table))


def get_detection_dataset_dicts(
    names: str | Sequence[str],
    filter_empty: bool = True,
    min_keypoints: int = 0,
    proposal_files: Sequence[str] | None = None,
    check_consistency: bool = True,
) -> list[dict] | Dataset:
    """Load and join registered data sets.

    ``filter_empty`` drops images without annotations other than crowds. A name may stand for a
    torch Dataset; then all must, and they are concatenated.
    """
    if min_keypoints or proposal_files:
        raise NotImplementedError("keypoints and precomputed proposals are not supported")
    names = [names] if isinstance(names, str) else list(names)
    assert names, "no data set was named: set DATASETS.TRAIN or DATASETS.TEST"
    loaded = [DatasetCatalog.get(name) for name in names]
    if isinstance(loaded[0], Dataset):
        return ConcatDataset(loaded) if len(loaded) > 1 else loaded[0]
    for name, dicts in zip(names, loaded):
        assert len(dicts), f"data set '{name}' is empty"
    dataset_dicts = list(itertools.chain.from_iterable(loaded))
    has_instances = "annotations" in dataset_dicts[0]
    if filter_empty and has_instances:
        dataset_dicts = filter_images_with_only_crowd_annotations(dataset_dicts)
    if check_consistency and has_instances:
        try:
            class_names = MetadataCatalog.get(names[0]).thing_classes
        except AttributeError:  # class names are optional
            class_names = None
        if class_names is not None:
            check_metadata_consistency("thing_classes", names)
            print_instances_class_histogram(dataset_dicts, class_names)
    assert dataset_dicts, f"no valid data found in {', '.join(names)}"
    return dataset_dicts


def trivial_batch_collator(batch: list) -> list:
    """Return the batch as it is."""
    return batch


def worker_init_reset_seed(worker_id: int) -> None:
    """Seed torch, numpy and Python in a worker process, each worker differently."""
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)


def _first(batch: list) -> Any:
    return batch[0]


def build_batch_data_loader(
    dataset: Dataset,
    sampler: Sampler | None,
    total_batch_size: int,
    *,
    aspect_ratio_grouping: bool = False,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
    drop_last: bool = True,
    prefetch_factor: int | None = None,
    persistent_workers: bool = False,
    pin_memory: bool = False,
) -> Iterable:
    """Return an iterable of batches of ``total_batch_size / world size`` items.

    With ``aspect_ratio_grouping`` items are dicts with ``width`` and ``height``.
    AssertionError if the batch cannot be split evenly.
    """
    world_size = get_world_size()
    assert total_batch_size > 0 and total_batch_size % world_size == 0, (
        f"the total batch size ({total_batch_size}) must be a multiple of the number of "
        f"processes ({world_size})"
    )
    batch_size = total_batch_size // world_size
    if isinstance(dataset, IterableDataset):
        assert sampler is None, "an iterable data set has no sampler"
    options: dict[str, Any] = {
        "sampler": sampler,
        "num_workers": num_workers,
        "worker_init_fn": worker_init_reset_seed,
        "prefetch_factor": prefetch_factor,
        "persistent_workers": persistent_workers,
        "pin_memory": pin_memory,
    }
    if not aspect_ratio_grouping:
        return DataLoader(
            dataset,
            batch_size=batch_size,
            drop_last=drop_last,
            collate_fn=collate_fn or trivial_batch_collator,
            **options,
        )
    singles = DataLoader(dataset, batch_size=1, collate_fn=_first, **options)
    batches = AspectRatioGroupedDataset(singles, batch_size)
    return batches if collate_fn is None else MapDataset(batches, collate_fn)


def _build_sampler(cfg: _CfgNode, dataset: Any) -> Sampler | None:
    if isinstance(dataset, IterableDataset):
        return None
    name = cfg.DATALOADER.SAMPLER_TRAIN
    _logger.info("Using training sampler %s", name)
    if name == "TrainingSampler":
        return TrainingSampler(len(dataset))
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dataset, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT
        )
        return RepeatFactorTrainingSampler(factors)
    raise ValueError(f"unknown DATALOADER.SAMPLER_TRAIN: {name}")


def _refuse_proposals(cfg: _CfgNode) -> None:
    if cfg.MODEL.LOAD_PROPOSALS:
        raise NotImplementedError("MODEL.LOAD_PROPOSALS is not supported")


def _train_loader_from_config(
    cfg: _CfgNode,
    mapper: Callable | None = None,
    *,
    dataset: Any = None,
    sampler: Sampler | None = None,
) -> dict[str, Any]:
    if dataset is None:
        _refuse_proposals(cfg)
        keypoint_head = cfg.MODEL.ROI_KEYPOINT_HEAD
        dataset = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN,
            filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
            min_keypoints=keypoint_head.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0,
        )
    return {
        "dataset": dataset,
        "sampler": _build_sampler(cfg, dataset) if sampler is None else sampler,
        "mapper": DatasetMapper(cfg, True) if mapper is None else mapper,
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


@configurable(from_config=_train_loader_from_config)
def build_detection_train_loader(
    dataset: list | Dataset,
    *,
    mapper: Callable | None,
    sampler: Sampler | None = None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
    **options: Any,
) -> Iterable:
    """Return an endless iterable of batches (lists of mapped dicts), for this rank.

    Call with a config (and ``mapper=``, ``dataset=``, ``sampler=`` to replace its choices) or
    with a list or Dataset. ``options`` go to ``build_batch_data_loader``.
    """
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    if mapper is not None:
        dataset = MapDataset(dataset, mapper)
    if isinstance(dataset, IterableDataset):
        assert sampler is None, "an iterable data set has no sampler"
    else:
        sampler = TrainingSampler(len(dataset)) if sampler is None else sampler
        assert isinstance(sampler, Sampler), f"expected a Sampler, got {type(sampler)}"
    return build_batch_data_loader(
        dataset,
        sampler,
        total_batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=num_workers,
        collate_fn=collate_fn,
        **options,
    )


def _test_loader_from_config(
    cfg: _CfgNode, dataset_name: str | Sequence[str], mapper: Callable | None = None
) -> dict[str, Any]:
    _refuse_proposals(cfg)
    dataset = get_detection_dataset_dicts(dataset_name, filter_empty=False)
    return {
        "dataset": dataset,
        "mapper": DatasetMapper(cfg, False) if mapper is None else mapper,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "sampler": None if isinstance(dataset, IterableDataset) else InferenceSampler(len(dataset)),
    }


@configurable(from_config=_test_loader_from_config)
def build_detection_test_loader(
    dataset: list | Dataset,
    *,
    mapper: Callable | None,
    sampler: Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
) -> DataLoader:
    """Return a loader over this rank's share of a data set, each item once.

    Call with a config and the name of a data set, or with a list or Dataset.
    """
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    if mapper is not None:
        dataset = MapDataset(dataset, mapper)
    if isinstance(dataset, IterableDataset):
        assert sampler is None, "an iterable data set has no sampler"
    elif sampler is None:
        sampler = InferenceSampler(len(dataset))
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=False,
        num_workers=num_workers,
        collate_fn=trivial_batch_collator if collate_fn is None else collate_fn,
    )
