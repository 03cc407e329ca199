"""The data sets known by name, and what is known about each."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from typing import Any


class _DatasetCatalog(UserDict):
    """Maps a data set's name to the function that loads its list of dicts."""

    def register(self, name: str, func: Callable[[], list[dict]]) -> None:
        """Register ``func`` under ``name``; AssertionError if the name is taken."""
        assert callable(func), f"data set '{name}' must be registered with a function"
        assert name not in self, f"data set '{name}' is registered already"
        self[name] = func

    def get(self, name: str) -> list[dict]:
        """Call the function registered under ``name`` and return its result.

        Raises KeyError, naming the data sets that exist.
        """
        if name not in self:
            raise KeyError(f"data set '{name}' is not registered; known: {', '.join(self)}")
        return self[name]()

    def list(self) -> list[str]:
        return list(self.data)

    def remove(self, name: str) -> None:
        self.pop(name)

    def __str__(self) -> str:
        return f"DatasetCatalog(registered data sets: {', '.join(self)})"


class Metadata:
    """Attributes of one data set; each may be set once, or again to an equal value."""

    name: str = "N/A"  # of a Metadata() that belongs to no catalogue

    def __init__(self, **kwargs: Any) -> None:
        self.set(**kwargs)

    def __getattr__(self, key: str) -> Any:
        known = ", ".join(self.__dict__)
        raise AttributeError(f"metadata of '{self.name}' has no attribute '{key}'; known: {known}")

    def __setattr__(self, key: str, value: Any) -> None:
        if key in self.__dict__:
            old = self.__dict__[key]
            assert old == value, f"'{key}' of '{self.name}' is {old!r} and cannot become {value!r}"
        else:
            super().__setattr__(key, value)

    def as_dict(self) -> dict[str, Any]:
        """Return a copy of the attributes; changing it does not change the metadata."""
        return dict(self.__dict__)

    def set(self, **kwargs: Any) -> Metadata:
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        return self.__dict__.get(key, default)

    def __repr__(self) -> str:
        return f"Metadata({self.__dict__})"


class _MetadataCatalog(UserDict):
    """Maps a data set's name to its ``Metadata``."""

    def get(self, name: str) -> Metadata:
        """Return the metadata of ``name``, creating it when there is none."""
        assert name, "a data set needs a name"
        if name not in self:
            self[name] = Metadata(name=name)
        return self[name]

    def list(self) -> list[str]:
        return list(self.data)

    def remove(self, name: str) -> None:
        self.pop(name)

    def __str__(self) -> str:
        return f"MetadataCatalog(registered metadata: {', '.join(self)})"


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
