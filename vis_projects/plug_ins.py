"""Packages of other people: their systems, samplers, data sets and options join by import."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec

from .structures.errors import InputError

GROUP = "vis_projects.systems"


def import_packages(names: Iterable[str]) -> None:
    """Import packages by name, also from the working directory (``--import``).

    Raises:
        InputError: there is no such package, or its own import fails.
    """
    names = list(names)
    if names and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a console script does not look there by itself
    for name in names:
        try:
            if find_spec(name) is None:
                raise InputError(
                    f"--import {name}: no such package in {os.getcwd()} nor installed; "
                    "give the name as in `import name`"
                )
            import_module(name)
        except InputError:
            raise
        except Exception as error:
            where = _last_line_of(error)
            raise InputError(
                f"--import {name}: it cannot be imported: {type(error).__name__}: {error}{where}"
            ) from error


def load_entry_points() -> None:
    """Import every installed package that names itself in the group ``vis_projects.systems``.

    A package that fails to import is one warning; the rest works.
    """
    for entry in entry_points(group=GROUP):
        try:
            entry.load()
        except Exception as error:
            warnings.warn(
                f"the plug-in {entry.name} ({entry.value}) is left out: it cannot be imported: "
                f"{type(error).__name__}: {' '.join(str(error).split())}",
                stacklevel=2,
            )


def _last_line_of(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})"
