"""The finder that offers the provider for the import name ``detectron2``, last of all.

Runs at interpreter start (through ``detectron2_lite.pth``): it imports nothing heavy and never
raises there.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from opcode import opname

NAME = "detectron2"
VARIABLE = "DETECTRON2_PROVIDER"
MODES = ("auto", "lite", "official")
OFFICIAL = (
    "pip install 'setuptools<82' && pip install --no-build-isolation "
    "git+https://github.com/facebookresearch/detectron2"
)
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
        if not any(isinstance(finder, PartsFinder) for finder in sys.meta_path):
            sys.meta_path.insert(0, PartsFinder())
        super().exec_module(module)
        refuse_absent_names(module)
        import logging  # not at interpreter start

        logging.getLogger("detectron2_lite").info(
            "detectron2 %s is provided by detectron2-lite (%s)", module.__version__, PROVIDER
        )


class _PartLoader(SourceFileLoader):
    def exec_module(self, module) -> None:
        super().exec_module(module)
        refuse_absent_names(module)


class PartsFinder:
    """Loads the provider's own modules; a module that it lacks is refused in one clear line.

    ``importlib.util.find_spec`` still answers None for such a module: asking is not using.
    """

    def find_spec(self, fullname: str, path=None, target=None) -> ModuleSpec | None:
        if not fullname.startswith(f"{NAME}.") or not any(is_ours(p) for p in path or ()):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None:
            if sys._getframe(2).f_code.co_name == "find_spec":
                return None
            raise ModuleNotFoundError(left_out(f"module {fullname}"), name=fullname)
        if is_ours(spec.origin or ""):
            spec.loader = _PartLoader(fullname, spec.origin)
        return spec


def is_ours(path: str) -> bool:
    """Tell whether a file or folder belongs to the provider."""
    return path == PROVIDER or path.startswith(PROVIDER + os.sep)


def left_out(what: str) -> str:
    """Return the line that refuses a part of Detectron2 which this provider lacks."""
    return (
        f"detectron2-lite has no {what}: it provides only a part of Detectron2; "
        f"install the official package, which then takes its place: {OFFICIAL}"
    )


def refuse_absent_names(module) -> None:
    """Give a module of the provider a ``__getattr__`` that names the official package.

    ``hasattr`` and ``getattr`` with a default work as ever (AttributeError). A ``from`` statement
    replaces the text of an AttributeError by its own, so it gets an ImportError.
    """
    own = module.__dict__.get("__getattr__")

    def __getattr__(name: str):
        if own is not None:
            try:
                return own(name)
            except AttributeError:
                pass
        where = module.__name__
        hidden = name.startswith("__")
        if hidden or (
            hasattr(module, "__path__")
            and PathFinder.find_spec(f"{where}.{name}", list(module.__path__))
        ):
            raise AttributeError(f"module {where!r} has no attribute {name!r}", name=name)
        line = left_out(f"{where}.{name}")
        frame = sys._getframe(1)
        if opname[frame.f_code.co_code[frame.f_lasti]] == "IMPORT_FROM":
            raise ImportError(line, name=where)
        raise AttributeError(line, name=name)

    module.__getattr__ = __getattr__


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
