"""CfgNode with files and base files, the global configuration, and ``configurable``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import yaml
from detectron2.utils.file_io import PathManager
from fvcore.common.config import CfgNode as _CfgNode

_VERSION = 2


class CfgNode(_CfgNode):
    """fvcore's CfgNode (yacs rules, ``_BASE_``), reading files through ``PathManager``."""

    @classmethod
    def _open_cfg(cls, filename: str):
        return PathManager.open(filename, "r")

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = True) -> None:
        """Merge a YAML file and the files that its ``_BASE_`` names.

        With ``allow_unsafe``, tags such as ``!!python/object`` are obeyed and may run code.

        Raises:
            FileNotFoundError: no such file.
            yaml.constructor.ConstructorError: a Python tag without ``allow_unsafe``.
            KeyError: an unknown key. ValueError: another type than the key's, or a version-1 file.
        """
        if not PathManager.isfile(cfg_filename):
            raise FileNotFoundError(f"configuration file '{cfg_filename}' does not exist")
        try:
            values = self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe)
        except yaml.constructor.ConstructorError as error:
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"{cfg_filename}: {error.problem}; only plain YAML is read "
                "(allow_unsafe=True would run code from the file)",
                error.problem_mark,
            ) from None
        loaded = type(self)(values)
        version = loaded.get("VERSION", _VERSION)
        if version != _VERSION:
            raise ValueError(f"{cfg_filename}: VERSION {version} is not supported, only {_VERSION}")
        self.merge_from_other_cfg(loaded)


global_cfg = CfgNode()


def get_cfg() -> CfgNode:
    """Return a fresh copy of the defaults."""
    from detectron2.config.defaults import _C

    return _C.clone()


def set_global_cfg(cfg: CfgNode) -> None:
    """Make ``global_cfg`` hold the values of ``cfg``."""
    global_cfg.clear()
    global_cfg.update(cfg)


def _takes_cfg(args: tuple, kwargs: dict[str, Any]) -> bool:
    if args and isinstance(args[0], _CfgNode):
        return True
    return isinstance(kwargs.get("cfg"), _CfgNode)


def _arguments_from_cfg(from_config: Callable, args: tuple, kwargs: dict[str, Any]) -> dict:
    """Call ``from_config`` with what it accepts; what it does not accept overrides its result."""
    parameters = inspect.signature(from_config).parameters
    if next(iter(parameters), None) != "cfg":
        name = getattr(from_config, "__qualname__", repr(from_config))
        raise TypeError(f"{name} must take 'cfg' as its first argument")
    kinds = {p.kind for p in parameters.values()}
    if kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
        return from_config(*args, **kwargs)
    accepted = {k: v for k, v in kwargs.items() if k in parameters}
    explicit = {k: v for k, v in kwargs.items() if k not in parameters}
    return {**from_config(*args, **accepted), **explicit}


def _configurable_init(init: Callable) -> Callable:
    if init.__name__ != "__init__":
        raise TypeError("@configurable without arguments decorates an __init__ method")

    @functools.wraps(init)
    def wrapped(self, *args, **kwargs):
        from_config = getattr(type(self), "from_config", None)
        if from_config is None:
            raise AttributeError(
                f"{type(self).__name__}: @configurable needs a classmethod from_config"
            )
        if not inspect.ismethod(from_config):
            raise TypeError(f"{type(self).__name__}.from_config must be a classmethod")
        if _takes_cfg(args, kwargs):
            init(self, **_arguments_from_cfg(from_config, args, kwargs))
        else:
            init(self, *args, **kwargs)

    return wrapped


def configurable(init_func: Callable | None = None, *, from_config: Callable | None = None):
    """Let a class or a function be called with a CfgNode or with plain arguments.

    As ``@configurable`` on ``__init__``: ``A(cfg, ...)`` passes cfg and those arguments that the
    class's classmethod ``from_config(cls, cfg, ...)`` accepts to it, and the remaining keyword
    arguments override entries of the dict that it returns. As ``@configurable(from_config=f)``
    on a function: the same with ``f``.

    Raises (on the call): AttributeError without ``from_config``; TypeError if its first parameter
    is not named ``cfg``.
    """
    if init_func is not None:
        if not inspect.isfunction(init_func) or from_config is not None:
            raise TypeError("use @configurable on __init__ or @configurable(from_config=...)")
        return _configurable_init(init_func)
    if from_config is None:
        return configurable
    if not inspect.isfunction(from_config):
        raise TypeError("from_config must be a function")

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            if _takes_cfg(args, kwargs):
                return function(**_arguments_from_cfg(from_config, args, kwargs))
            return function(*args, **kwargs)

        wrapped.from_config = from_config
        return wrapped

    return decorate
