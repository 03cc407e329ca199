"""Old module and function names, now in ``vis_metrics``: they work, each with one warning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

PACKAGE = __package__
MODULES = {
    "average_precision": "average_precision",
    "bootstrap": "bootstrap",
    "davis": "davis",
    "davis_layout": "files.davis_layout",
    "errors": "errors",
    "identity": "identity",
    "json_files": "files.json_files",
    "label_files": "files.label_files",
    "region_boundary": "region_boundary",
    "results": "files.writing",
    "validate": "validate",
    "video_pool": "video_pool",
    "ytvis": "ytvis",
    "ytvis_files": "files.ytvis_files",
    "ytvos": "ytvos",
    "ytvos_meta": "files.ytvos_meta",
}


class FormerModules(MetaPathFinder, Loader):
    """Answers for ``vis_projects.evaluation.<old name>`` with the module of ``vis_metrics``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        if package != PACKAGE or name not in MODULES:
            return None
        return spec_from_loader(fullname, self)

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        successor = f"vis_metrics.{MODULES[module.__name__.rpartition('.')[2]]}"
        _warn(module.__name__, successor)
        # the import system hands out what stands here: the one module under both names
        sys.modules[module.__name__] = import_module(successor)


def forward(name: str) -> Any:
    """Return a function or class of ``vis_metrics`` asked for under ``vis_projects.evaluation``."""
    import vis_metrics

    if name.startswith("_") or name not in vis_metrics.__all__:
        raise AttributeError(f"module {PACKAGE!r} has no attribute {name!r}")
    _warn(f"{PACKAGE}.{name}", f"vis_metrics.{name}", level=4)
    return getattr(vis_metrics, name)


def install() -> None:
    """Let the old module names be found."""
    if not any(isinstance(finder, FormerModules) for finder in sys.meta_path):
        sys.meta_path.append(FormerModules())


def _warn(old: str, new: str, level: int = 3) -> None:
    warnings.warn(f"{old} has moved: import {new} instead", FutureWarning, stacklevel=level)
