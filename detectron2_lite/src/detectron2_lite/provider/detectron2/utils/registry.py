"""Registries by name, and finding an object by its dotted path."""

from __future__ import annotations

import importlib
from typing import Any

from fvcore.common.registry import Registry

__all__ = ["Registry", "locate"]


def locate(name: str) -> Any:
    """Import the object with the dotted path ``name``, e.g. ``"detectron2.structures.Boxes"``.

    Raises ImportError if there is none.
    """
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        module = ".".join(parts[:cut])
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is not None and not f"{module}.".startswith(f"{error.name}."):
                raise  # the module exists and misses something else
            continue
        for part in parts[cut:]:
            if not hasattr(found, part):
                raise ImportError(f"cannot find '{name}': no '{part}' in {found!r}")
            found = getattr(found, part)
        return found
    raise ImportError(f"cannot find '{name}'")
