"""The training loader: endless, reproducible, and resumable at any sample.

What sample k is follows from (seed, k) alone: which data set, which key, which frames, which
augmentation. Workers, prefetching and the number of processes therefore change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch.utils.data
from detectron2.config import CfgNode
from detectron2.utils import comm

from ..structures import InputError
from .catalog.class_maps import apply_class_map, class_agnostic
from .catalog.registration import get_metadata, identity_offsets, load_videos
from .clips.clip_mapper import ClipMapper
from .clips.frame_samplers import FrameSampler, build_frame_sampler
from .clips.sampling_order import (
    BatchOrder,
    EpochOrder,
    KeyOrder,
    RepeatFactorOrder,
    UniformClassOrder,
    WeightedMix,
    repeat_factors,
)
from .detectron2_options import with_detectron2_options
from .formats.video_record import Video
from .test_loader import as_list

_TRIES = 20  # keys drawn at most when items come out without objects


class ClipDataset(torch.utils.data.Dataset):
    """Training items by sample number, endless.

    Args:
        names, videos, samplers: one each per data set.
        weights: shares of the data sets; none: in proportion to their keys, and where a balance
            repeats keys, to the repeated ones.
        mapper: makes the items.
        seed: of everything random.
        balance, threshold, power: see ``INPUT.SAMPLER.BALANCE``.
        offsets: where each data set's identities start.
    """

    def __init__(
        self,
        names: Sequence[str],
        videos: Sequence[list[Video]],
        samplers: Sequence[FrameSampler],
        *,
        weights: Sequence[float] = (),
        mapper: ClipMapper,
        seed: int = 0,
        balance: str = "uniform",
        threshold: float = 0.025,
        power: float = 0.5,
        offsets: Sequence[int] | None = None,
        needs_objects: bool = True,
    ) -> None:
        self.names, self.videos, self.samplers = list(names), list(videos), list(samplers)
        self.mapper, self.seed = mapper, seed
        self.needs_objects = needs_objects
        self.offsets = list(offsets) if offsets is not None else [0] * len(self.names)
        self.starts = np.cumsum([0] + [len(s) for s in self.samplers])
        options = {"seed": seed, "threshold": threshold, "power": power}
        self.joint: KeyOrder | None = None
        if balance != "uniform" and not weights:
            self.joint = joint_order(self.samplers, balance, **options)
        else:
            self.mix = WeightedMix(weights or [len(s) for s in self.samplers], seed=seed)
            self.orders = orders_of_sets(self.samplers, balance, **options)

    def __len__(self) -> int:
        """Keys of all data sets: an epoch of uniform sampling."""
        return sum(len(s) for s in self.samplers)

    def locate(self, sample: int) -> tuple[int, int]:
        """Return the data set and the key of a sample."""
        if self.joint is not None:
            key = self.joint(sample)
            dataset = int(np.searchsorted(self.starts, key, side="right")) - 1
            return dataset, key - int(self.starts[dataset])
        dataset, position = self.mix(sample)
        return dataset, self.orders[dataset](position)

    def wide(self, sample: int) -> bool:
        """Tell whether a sample's frames are wider than high."""
        dataset, key = self.locate(sample)
        return self.samplers[dataset].wide(key)

    def __getitem__(self, sample: int) -> dict[str, Any]:
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, 0, sample]))
        dataset, key = self.locate(sample)
        sampler = self.samplers[dataset]
        out: dict[str, Any] = {}
        for _ in range(_TRIES):
            item = sampler.sample(key, rng)
            out = self.mapper(
                self.videos[dataset][item.video],
                item,
                rng,
                dataset=self.names[dataset],
                identity_offset=self.offsets[dataset],
                flat=sampler.flat,
            )
            if not self.needs_objects or _shows_object(out):
                break
            key = int(rng.integers(len(sampler)))
        out["sample"] = sample
        return out


def _shows_object(item: dict[str, Any]) -> bool:
    """The first frame of an item is its key or reference: it has to show something."""
    instances = item["instances"]
    if isinstance(instances, list):
        return any(len(i) for i in instances) if item["pseudo"] else len(instances[0]) > 0
    return len(instances) > 0


def _classes(samplers: Sequence[FrameSampler]) -> list[list[set[int]]]:
    return [[s.classes(k) for k in range(len(s))] for s in samplers]


def joint_order(
    samplers: Sequence[FrameSampler], balance: str, *, seed: int, threshold: float, power: float
) -> KeyOrder:
    """Return one order over the keys of all data sets, one set behind the other.

    How rare a class is, is a matter of all the training images together (MSN, section 4.1): a
    class that one small set alone shows gains against the large sets.
    """
    classes = [c for keys in _classes(samplers) for c in keys]
    if balance == "uniform_class":
        return UniformClassOrder(classes, seed=seed)
    _check_balance(balance)
    return RepeatFactorOrder(repeat_factors(classes, threshold=threshold, power=power), seed=seed)


def orders_of_sets(
    samplers: Sequence[FrameSampler], balance: str, *, seed: int, threshold: float, power: float
) -> list[KeyOrder]:
    """Return an order for each data set, for sets whose shares are fixed (DATASETS.WEIGHTS)."""
    seeds = [seed * 1000 + d for d in range(len(samplers))]
    if balance == "uniform":
        return [EpochOrder(len(s), seed=n) for s, n in zip(samplers, seeds)]
    _check_balance(balance)
    classes = _classes(samplers)
    if balance == "uniform_class":
        return [UniformClassOrder(keys, seed=n) for keys, n in zip(classes, seeds)]
    factors = repeat_factors(
        [c for keys in classes for c in keys], threshold=threshold, power=power
    )
    ends = np.cumsum([len(keys) for keys in classes])[:-1]
    return [RepeatFactorOrder(f, seed=n) for f, n in zip(np.split(factors, ends), seeds)]


def _check_balance(balance: str) -> None:
    if balance not in ("repeat_factor", "uniform_class"):
        raise InputError(
            f"INPUT.SAMPLER.BALANCE {balance!r} is unknown: uniform, repeat_factor or uniform_class"
        )


def training_videos(cfg: CfgNode) -> list[list[Video]]:
    """Return the videos of every set in DATASETS.TRAIN, class maps applied.

    Raises:
        InputError: no data set, unknown names or maps, lists of different length.
    """
    names = list(cfg.DATASETS.TRAIN)
    if not names:
        raise InputError("DATASETS.TRAIN names no data set: nothing to train on")
    for key in ("CLASS_MAPS", "WEIGHTS", "MAX_GAPS"):
        values = getattr(cfg.DATASETS, key)
        if len(values) not in (0, len(names)):
            raise InputError(
                f"DATASETS.{key} has {len(values)} entries for {len(names)} training sets: give "
                "one each"
            )
    maps = list(cfg.DATASETS.CLASS_MAPS) or [""] * len(names)
    sets = []
    for name, key in zip(names, maps):
        videos = load_videos(name)
        if key:
            videos = apply_class_map(videos, key, get_metadata(name))
        if cfg.DATASETS.CLASS_AGNOSTIC:
            videos = class_agnostic(videos)
        sets.append(videos)
    return sets


def build_clip_dataset(cfg: CfgNode) -> ClipDataset:
    """Return the endless data set of training items that a config describes.

    Raises:
        InputError: see ``training_videos``, ``build_frame_sampler`` and
            ``with_detectron2_options``.
    """
    cfg = with_detectron2_options(cfg)
    names = list(cfg.DATASETS.TRAIN)
    sets = training_videos(cfg)
    gaps = list(cfg.DATASETS.MAX_GAPS) or [None] * len(names)
    samplers = []
    for name, videos, gap in zip(names, sets, gaps):
        try:
            samplers.append(build_frame_sampler(cfg, videos, max_gap=gap))
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    options = cfg.INPUT.SAMPLER
    return ClipDataset(
        names,
        sets,
        samplers,
        weights=list(cfg.DATASETS.WEIGHTS),
        mapper=ClipMapper(cfg),
        seed=max(cfg.SEED, 0),
        balance=options.BALANCE,
        threshold=options.BALANCE_THRESHOLD,
        power=options.BALANCE_POWER,
        offsets=identity_offsets(names),
        needs_objects=options.NEEDS_OBJECTS,
    )


class TrainLoader:
    """Endless iterator over batches (lists of items) that knows where it stands.

    ``sample`` is the number of samples, over all ranks, that the batches handed out so far have
    used: store it, and give it to ``build_train_loader`` as ``start_sample`` to continue.
    """

    def __init__(
        self, loader: torch.utils.data.DataLoader, dataset: ClipDataset, order: BatchOrder
    ):
        self.loader, self.dataset, self.order = loader, dataset, order
        self.sample = order.start * order.batch_size

    def seek(self, sample: int) -> None:
        """Continue with the batch that follows ``sample`` samples; call before iterating."""
        self.order.start = sample // self.order.batch_size
        self.sample = self.order.start * self.order.batch_size

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        for batch in self.loader:
            self.sample += self.order.batch_size
            yield batch


def build_train_loader(cfg: CfgNode, start_sample: int = 0) -> TrainLoader:
    """Return the training loader of this rank.

    Args:
        start_sample: samples (over all ranks) that an interrupted run has used; the items that
            follow are those that it would have got. Rounded down to whole batches.

    Batches have ``SOLVER.IMS_PER_BATCH`` items over all ranks. The seed is ``SEED``, or 0 if it is
    negative, so that a run can be continued in any case.

    Raises:
        InputError: data sets, options or batch size do not fit.
    """
    dataset = build_clip_dataset(cfg)
    order = BatchOrder(
        cfg.SOLVER.IMS_PER_BATCH,
        seed=max(cfg.SEED, 0),
        start=start_sample,
        wide=dataset.wide if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None,
        rank=comm.get_rank(),
        world_size=comm.get_world_size(),
    )
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=as_list,
        worker_init_fn=_quiet_worker,
        persistent_workers=cfg.DATALOADER.NUM_WORKERS > 0,
    )
    return TrainLoader(loader, dataset, order)


def _quiet_worker(worker: int) -> None:
    """One thread per worker: OpenCV's own threads would compete with the other workers."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
