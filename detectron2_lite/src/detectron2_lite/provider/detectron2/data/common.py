"""Data sets built from lists, functions and samplers, and grouping by aspect ratio."""

from __future__ import annotations

import copy
import itertools
import logging
import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset, get_worker_info
from torch.utils.data.sampler import Sampler

__all__ = ["AspectRatioGroupedDataset", "DatasetFromList", "MapDataset", "ToIterableDataset"]


class MapDataset(Dataset):
    """Apply ``map_func`` to the items of a data set.

    Where it returns None, another index is taken instead. Over an IterableDataset the result is
    iterable too, and None is skipped.
    """

    def __new__(cls, dataset: Any, map_func: Callable[[Any], Any]) -> Any:
        if isinstance(dataset, IterableDataset):
            return _MapIterableDataset(dataset, map_func)
        return super().__new__(cls)

    def __init__(self, dataset: Any, map_func: Callable[[Any], Any]) -> None:
        self._dataset = dataset
        self._map_func = map_func
        self._random = random.Random(42)  # its own state: the global one belongs to the user
        self._fallback = set(range(len(dataset)))

    def __getnewargs__(self) -> tuple:
        return self._dataset, self._map_func

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, idx: int) -> Any:
        current = int(idx)
        for attempt in itertools.count(1):
            item = self._map_func(self._dataset[current])
            if item is not None:
                self._fallback.add(current)
                return item
            self._fallback.discard(current)
            if not self._fallback:
                raise RuntimeError(f"the mapper returned None for all {len(self)} items")
            if attempt >= 3:
                logging.getLogger(__name__).warning(
                    "The mapper returned None for index %d, attempt %d", idx, attempt
                )
            current = self._random.choice(sorted(self._fallback))
        raise AssertionError


class _MapIterableDataset(IterableDataset):
    """``MapDataset`` over an iterable."""

    def __init__(self, dataset: Iterable, map_func: Callable[[Any], Any]) -> None:
        self._dataset = dataset
        self._map_func = map_func

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[Any]:
        for item in map(self._map_func, self._dataset):
            if item is not None:
                yield item


class DatasetFromList(Dataset):
    """A list as a data set.

    ``serialize`` keeps the items pickled in one array, so that worker processes share the
    memory instead of copying it; ``copy`` returns deep copies otherwise.
    """

    def __init__(self, lst: list, copy: bool = True, serialize: bool = True) -> None:
        self._copy = copy
        self._serialize = serialize
        if serialize:
            parts = [np.frombuffer(pickle.dumps(x, protocol=-1), dtype=np.uint8) for x in lst]
            ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
            self._ends = np.concatenate([np.zeros(1, dtype=np.int64), ends])
            self._buffer = np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint8)
        else:
            self._items = lst

    def __len__(self) -> int:
        return len(self._ends) - 1 if self._serialize else len(self._items)

    def __getitem__(self, idx: int) -> Any:
        if self._serialize:
            if not -len(self) <= idx < len(self):
                raise IndexError(f"index {idx} of {len(self)} items")
            idx %= len(self)
            # our own bytes, written by __init__ above
            return pickle.loads(memoryview(self._buffer[self._ends[idx] : self._ends[idx + 1]]))
        item = self._items[idx]
        return copy.deepcopy(item) if self._copy else item


class ToIterableDataset(IterableDataset):
    """The items of ``dataset`` in the order of ``sampler``.

    In worker processes each takes its share of chunks of the sampler's sequence, unless
    ``shard_sampler`` is False because the sampler does that itself.
    """

    def __init__(
        self,
        dataset: Dataset,
        sampler: Sampler,
        shard_sampler: bool = True,
        shard_chunk_size: int = 1,
    ) -> None:
        assert not isinstance(dataset, IterableDataset), f"{dataset!r} is iterable already"
        assert isinstance(sampler, Sampler), f"{sampler!r} is not a Sampler"
        self.dataset = dataset
        self.sampler = sampler
        self.shard_sampler = shard_sampler
        self.shard_chunk_size = shard_chunk_size

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        indices: Iterable[int] = self.sampler
        if self.shard_sampler and worker is not None:
            chunk, own, count = self.shard_chunk_size, worker.id, worker.num_workers
            indices = (
                index
                for position, index in enumerate(self.sampler)
                if (position // chunk) % count == own
            )
        for index in indices:
            yield self.dataset[index]

    def __len__(self) -> int:
        return len(self.sampler)


class AspectRatioGroupedDataset(IterableDataset):
    """Batches (lists) of dicts that are all wider than high, or all not."""

    def __init__(self, dataset: Iterable[dict[str, Any]], batch_size: int) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self._buckets: tuple[list, list] = ([], [])

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        for item in self.dataset:
            bucket = self._buckets[0 if item["width"] > item["height"] else 1]
            bucket.append(item)
            if len(bucket) == self.batch_size:
                batch = bucket[:]
                bucket.clear()
                yield batch
