"""The finder that offers the provider for the import name ``detectron2``, last of all.

Runs at interpreter start (through ``detectron2_lite.pth``): it imports nothing heavy and never
raises there.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location

NAME = "detectron2"
VARIABLE = "DETECTRON2_PROVIDER"
MODES = ("auto", "lite", "official")
PROVIDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "provider", NAME)


def mode() -> str:
    """Return what DETECTRON2_PROVIDER asks for: auto, lite or official.

    Raises ImportError for another value.
    """
    value = os.environ.get(VARIABLE, "").strip().lower() or "auto"
    if value not in MODES:
        raise ImportError(f"{VARIABLE}={value}: expected one of {', '.join(MODES)}", name=NAME)
    return value


class _Loader(SourceFileLoader):
    def exec_module(self, module) -> None:
        super().exec_module(module)
        import logging  # not at interpreter start

        logging.getLogger("detectron2_lite").info(
            "detectron2 %s is provided by detectron2-lite (%s)", module.__version__, PROVIDER
        )


class ProviderFinder:
    """Answers for the exact name ``detectron2``, and only when no other finder knows it."""

    def find_spec(self, fullname: str, path=None, target=None) -> ModuleSpec | None:
        if fullname != NAME or path is not None:
            return None
        wanted = mode()
        if wanted == "official":
            return None
        if wanted == "auto":
            # Finders appended after this one (editable installs do that) go first too.
            for finder in list(sys.meta_path):
                if isinstance(finder, ProviderFinder) or not hasattr(finder, "find_spec"):
                    continue
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    return spec
        origin = os.path.join(PROVIDER, "__init__.py")
        return spec_from_file_location(
            NAME, origin, loader=_Loader(NAME, origin), submodule_search_locations=[PROVIDER]
        )


def install() -> None:
    """Put the finder at the end of ``sys.meta_path`` (at its head for lite); twice is once."""
    if any(isinstance(finder, ProviderFinder) for finder in sys.meta_path):
        return
    try:
        first = mode() == "lite"
    except ImportError:
        first = True  # so that the wrong value is reported by `import detectron2`
    if first:
        sys.meta_path.insert(0, ProviderFinder())
    else:
        sys.meta_path.append(ProviderFinder())
