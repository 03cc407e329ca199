"""The container of everything that is known about the objects of one image."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor


class Instances:
    """Named fields of equal length, one entry per object, and the image's (height, width).

    A field is set and read as an attribute; names that start with ``_`` are not fields.
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any) -> None:
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._image_size

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        elif isinstance(getattr(type(self), name, None), property):
            raise AttributeError(f"'{name}' of Instances cannot be set")
        else:
            self.set(name, value)

    def __getattr__(self, name: str) -> Any:
        # Unpickling asks for attributes before `_fields` exists.
        if name == "_fields" or name not in self._fields:
            raise AttributeError(f"Instances has no field '{name}'")
        return self._fields[name]

    def set(self, name: str, value: Any) -> None:
        """Set a field; it must be as long as the others (AssertionError)."""
        if self._fields:
            assert len(self) == len(value), (
                f"field '{name}' has length {len(value)}, the others have {len(self)}"
            )
        self._fields[name] = value

    def has(self, name: str) -> bool:
        return name in self._fields

    def remove(self, name: str) -> None:
        del self._fields[name]

    def get(self, name: str) -> Any:
        return self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """Return the dict of fields itself: changing it changes this object."""
        return self._fields

    def _with(self, fields: dict[str, Any]) -> Instances:
        out = type(self)(self._image_size)
        for name, value in fields.items():
            out.set(name, value)
        return out

    def to(self, *args: Any, **kwargs: Any) -> Instances:
        """Call ``to`` on every field that has it and return new Instances."""
        return self._with(
            {k: v.to(*args, **kwargs) if hasattr(v, "to") else v for k, v in self._fields.items()}
        )

    def __getitem__(self, item: int | slice | Tensor) -> Instances:
        """Select objects in every field; an int gives Instances of length 1.

        Raises IndexError for an int outside the length.
        """
        if type(item) is int:
            length = len(self)
            if not -length <= item < length:
                raise IndexError(f"index {item} into {length} instances")
            item = slice(item, None, length)
        return self._with({k: v[item] for k, v in self._fields.items()})

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("Instances without fields have no length")

    def __iter__(self):
        raise NotImplementedError("Instances cannot be iterated; index them")

    @staticmethod
    def cat(instance_lists: list[Instances]) -> Instances:
        """Join Instances of one image size; the fields are those of the first.

        A list of one returns that very object.
        """
        assert all(isinstance(i, Instances) for i in instance_lists)
        assert len(instance_lists) > 0, "nothing to join"
        first = instance_lists[0]
        if len(instance_lists) == 1:
            return first
        for other in instance_lists[1:]:
            assert other.image_size == first.image_size, (
                f"image sizes {first.image_size} and {other.image_size} differ"
            )
        return first._with({k: _join([i.get(k) for i in instance_lists], k) for k in first._fields})

    def __str__(self) -> str:
        head = f"image_height={self._image_size[0]}, image_width={self._image_size[1]}"
        count = len(self) if self._fields else 0
        fields = ", ".join(f"{k}: {v}" for k, v in self._fields.items())
        return f"{type(self).__name__}(num_instances={count}, {head}, fields=[{fields}])"

    __repr__ = __str__


def _join(values: list[Any], name: str) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(values, dim=0)
    if isinstance(first, list):
        return list(itertools.chain(*values))
    if hasattr(type(first), "cat"):
        return type(first).cat(values)
    raise ValueError(f"field '{name}' of type {type(first).__name__} cannot be joined")
