"""A bounded cache of per-frame features for systems that pass over a video more than once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class FeatureCache:
    """Least-recently-used cache of tensors (or nested dicts, lists, tuples of tensors).

    What does not fit is computed again when it is asked for, so results do not depend on the limit.

    Args:
        limit_mb: megabytes (1e6 bytes) of tensors kept; 0 keeps nothing, infinity all.
    """

    def __init__(self, limit_mb: float) -> None:
        self.limit = limit_mb * 1e6
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return the value of ``key``, calling ``compute`` if it is not there."""
        if key in self._entries:
            self.hits += 1
            self._entries.move_to_end(key)
            return self._entries[key][0]
        self.misses += 1
        value = compute()
        size = tensor_bytes(value)
        if size <= self.limit:
            self.bytes += size
            self._entries[key] = (value, size)
            while self.bytes > self.limit:
                self.bytes -= self._entries.popitem(last=False)[1][1]
        return value

    def clear(self) -> None:
        """Forget everything: another video begins."""
        self._entries.clear()
        self.bytes = self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)


def tensor_bytes(value: Any) -> int:
    """Bytes of all tensors in a nested structure."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(tensor_bytes(v) for v in value.values())
    if isinstance(value, (list, tuple)):
        return sum(tensor_bytes(v) for v in value)
    if hasattr(value, "get_fields"):  # Instances
        return tensor_bytes(value.get_fields())
    if hasattr(value, "tensor"):  # Boxes, ImageList
        return tensor_bytes(value.tensor)
    return 0
