"""Samplers that split one common sequence of indices over the processes."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import detectron2.utils.comm as comm
import torch
from torch.utils.data.sampler import Sampler


class _CommonSequence(Sampler):
    """An endless sequence, equal on all ranks because the seed is; rank r takes each world-th."""

    def __init__(self, seed: int | None) -> None:
        self._seed = int(comm.shared_random_seed() if seed is None else seed)
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    def _infinite_indices(self) -> Iterator[int]:
        raise NotImplementedError

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self._infinite_indices(), self._rank, None, self._world_size)


class TrainingSampler(_CommonSequence):
    """Indices 0..size-1 over and over, in a new random order each time if ``shuffle``."""

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None) -> None:
        if not isinstance(size, int):
            raise TypeError(f"TrainingSampler needs an integer size, got {type(size)}")
        if size <= 0:
            raise ValueError(f"TrainingSampler needs a size above 0, got {size}")
        self._size = size
        self._shuffle = shuffle
        super().__init__(seed)

    def _infinite_indices(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(self._seed)
        while True:
            if self._shuffle:
                yield from torch.randperm(self._size, generator=generator).tolist()
            else:
                yield from range(self._size)


class RepeatFactorTrainingSampler(_CommonSequence):
    """Like TrainingSampler, with index i appearing ``repeat_factors[i]`` times a round on
    average: the fraction is rounded up or down at random (LVIS, appendix B.2)."""

    def __init__(
        self, repeat_factors: torch.Tensor, *, shuffle: bool = True, seed: int | None = None
    ) -> None:
        self._shuffle = shuffle
        self._whole = torch.trunc(repeat_factors)
        self._fraction = repeat_factors - self._whole
        super().__init__(seed)

    @staticmethod
    def repeat_factors_from_category_frequency(
        dataset_dicts: Sequence[dict[str, Any]], repeat_thresh: float, sqrt: bool = True
    ) -> torch.Tensor:
        """Return float32 factors: max over an image's categories of max(1, thresh / f), or its
        square root, where f is the fraction of images that show the category."""
        categories = [{a["category_id"] for a in d["annotations"]} for d in dataset_dicts]
        images_with = Counter(itertools.chain.from_iterable(categories))
        power = 0.5 if sqrt else 1.0
        factor = {
            category: max(1.0, math.pow(repeat_thresh / (count / len(dataset_dicts)), power))
            for category, count in images_with.items()
        }
        return torch.tensor(
            [max((factor[c] for c in present), default=1.0) for present in categories],
            dtype=torch.float32,
        )

    def _round(self, generator: torch.Generator) -> torch.Tensor:
        extra = torch.rand(len(self._fraction), generator=generator) < self._fraction
        counts = (self._whole + extra.float()).long()
        return torch.repeat_interleave(torch.arange(len(counts)), counts)

    def _infinite_indices(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(self._seed)
        while True:
            indices = self._round(generator)
            if self._shuffle:
                indices = indices[torch.randperm(len(indices), generator=generator)]
            yield from indices.tolist()


class InferenceSampler(Sampler):
    """Each index once over all ranks: contiguous shards, the first ones one longer."""

    def __init__(self, size: int) -> None:
        assert size > 0, f"InferenceSampler needs a size above 0, got {size}"
        self._size = size
        self._local_indices = self._get_local_indices(size, comm.get_world_size(), comm.get_rank())

    @staticmethod
    def _get_local_indices(total_size: int, world_size: int, rank: int) -> range:
        share, longer = divmod(total_size, world_size)
        begin = rank * share + min(rank, longer)
        return range(begin, min(begin + share + (rank < longer), total_size))

    def __iter__(self) -> Iterator[int]:
        return iter(self._local_indices)

    def __len__(self) -> int:
        return len(self._local_indices)
