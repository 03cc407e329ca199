"""A pretended accelerator: tensors that carry real CPU values under a device of their own.

Shows without a GPU what would fail or wait on one: tensors made on the wrong device, and the places
where the host has to wait for the device. Unlike FakeTensorMode it has values, so that backward
passes, ``nonzero`` and non-maximum suppression run.
"""

from __future__ import annotations

import functools
import gc
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import detectron2
import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pretend"
_PACKAGE = Path(__file__).parents[2] / "vis_projects"
_DETECTRON2 = Path(detectron2.__path__[0])
# Operators whose result has a size or value that the host must know.
_WAITS = (
    *("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.equal"),
    *("aten._unique", "aten.unique_", "aten.bincount", "aten.repeat_interleave.Tensor"),
    *("aten.histc", "torchvision.nms", "aten._linalg_check_errors", "aten.is_nonzero"),
)
_INDEXED = ("aten.index.", "aten.index_put", "aten._unsafe_index", "aten._index_put")
_COPIES = ("aten._to_copy", "aten.copy_", "aten.copy.")


_KEPT: list[Any] = []  # registrations end with their objects


class Pretended(torch.Tensor):
    """A tensor of the pretended device; ``inner`` holds its values."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Pretended:
        out = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
            requires_grad=False,
        )
        out.inner = inner
        return out

    def __repr__(self) -> str:
        return f"Pretended({self.inner!r})"

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, Any], *_: Any) -> Pretended:
        return Pretended(parts["inner"])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {}, None)


def _on_device(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def run(func: Any, args: Any, kwargs: dict, note: Callable[[str], None] | None) -> Any:
    """Run one operator on the values, as the device would."""
    name = str(func)
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    ours = [t for t in tensors if isinstance(t, Pretended)]
    device = kwargs.get("device")
    if not ours and not _on_device(device):
        return func(*args, **kwargs)
    copies = name.startswith(_COPIES)
    host = [t for t in tensors if not isinstance(t, Pretended) and t.dim() > 0]
    if host and not copies:
        if not (name.startswith(_INDEXED) and isinstance(args[0], Pretended)):
            raise RuntimeError(f"tensors of two devices in {name} at {place()}")
        if note:
            note("index from the host")
    if note:
        _note_waits(name, args, kwargs, ours, note)
    plain = tree_map(lambda t: t.inner if isinstance(t, Pretended) else t, (args, kwargs))
    to_host = device is not None and not _on_device(device)
    if _on_device(device):
        plain[1]["device"] = torch.device("cpu")
    out = func(*plain[0], **plain[1])
    if to_host or (name.startswith("aten.copy_") and not isinstance(args[0], Pretended)):
        return args[0] if name.startswith("aten.copy_") else out
    out = tree_map(lambda t: Pretended(t) if isinstance(t, torch.Tensor) else t, out)
    if func._schema.is_mutable:
        for argument in args:
            if isinstance(argument, Pretended):
                _follow(argument)
    return return_and_correct_aliasing(func, args, kwargs, out) if ours else out


def _follow(tensor: Pretended) -> None:
    if tuple(tensor.shape) != tuple(tensor.inner.shape):
        raise NotImplementedError("the shape of a tensor changed in place")


def _note_waits(name: str, args: Any, kwargs: dict, ours: list, note: Callable) -> None:
    if name.startswith(_WAITS):
        note(name.split(".")[1])
    elif name.startswith(_INDEXED):
        given = [i for i in args[1] if isinstance(i, torch.Tensor)]
        if any(i.dtype in (torch.bool, torch.uint8) for i in given):
            note("index by a mask")
    elif name.startswith("aten._to_copy") and "device" in kwargs:
        device, blocking = kwargs["device"], not kwargs.get("non_blocking")
        if blocking and ours and not _on_device(device):
            note("copy to the host")
        elif blocking and not ours and args[0].dim() > 0:
            note("copy from the host")
    elif name.startswith("aten.copy_"):
        blocking = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
        target, source = args[:2]
        if blocking and isinstance(source, Pretended) != isinstance(target, Pretended):
            note(f"copy {'to' if isinstance(source, Pretended) else 'from'} the host")


def place() -> str:
    """Return "file.py:function" of the innermost frame of the package, ``detectron2`` if that lies
    further in, or ``outside`` (the test, a backward pass)."""
    frame = sys._getframe()
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(_PACKAGE):
            return f"{path.relative_to(_PACKAGE)}:{frame.f_code.co_name}"
        if path.is_relative_to(_DETECTRON2):
            return "detectron2"
        frame = frame.f_back
    return "outside"


class Watch(TorchDispatchMode):
    """Runs everything on the pretended device and notes where the host waits.

    Attributes:
        waits: how often, by (place, what).
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {}, self._note)

    def _note(self, what: str) -> None:
        self.waits[place(), what] += 1


class _FromPython(TorchFunctionMode):
    """What reads Python numbers straight to a device, or a device straight to Python."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self.note = note

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and _on_device(kwargs.get("device")):
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        first = args[0] if args else None
        if not isinstance(first, Pretended):
            return func(*args, **kwargs)
        if func is torch.Tensor.new_tensor:
            return torch.tensor(*args[1:], **{"dtype": first.dtype, **kwargs}).to(first.device)
        if func is torch.Tensor.tolist:
            self.note("copy to the host")
            return first.inner.tolist()
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            args = (first, self._index(args[1], first.device), *args[2:])
        return func(*args, **kwargs)

    def _index(self, index: Any, device: torch.device) -> Any:
        """An index in which lists are tensors on the device, as torch makes them."""
        if isinstance(index, tuple):
            return tuple(self._index(i, device) for i in index)
        if isinstance(index, (list, np.ndarray)):
            return torch.as_tensor(np.asarray(index)).to(device)
        return index


class _Backend:
    """What torch asks of a device's module.

    It is available only while it is pretended: other tests of the process trace on a CUDA device
    that is not there, which FakeTensorMode refuses beside an accelerator that is.
    """

    watched = False
    is_initialized = staticmethod(lambda: True)
    is_available = staticmethod(lambda: _Backend.watched)
    current_device = staticmethod(lambda: 0)
    _is_in_bad_fork = staticmethod(lambda: False)
    device_count = staticmethod(lambda: 1)
    manual_seed_all = staticmethod(lambda seed: None)
    get_amp_supported_dtype = staticmethod(lambda: [torch.float16, torch.bfloat16])


@contextmanager
def pretended_device() -> Iterator[Watch]:
    """Register the device (once) and watch what runs on it.

    What is seen does not depend on the tests before: caches begin empty, and the backward pass runs
    on this thread, as autograd's threads are those of the devices known at its first use.
    """
    register()
    _forget_cached()
    one_thread = torch.autograd.set_multithreading_enabled(False)
    _Backend.watched = True
    try:
        with one_thread, Watch() as watch, _FromPython(watch._note):
            yield watch
    finally:
        _Backend.watched = False
        _forget_cached()  # its tensors are no other test's


def _forget_cached() -> None:
    """Empty the package's ``lru_cache``s: what was copied once per size is copied again."""
    for thing in gc.get_objects():
        if type(thing) is functools._lru_cache_wrapper:
            if (thing.__module__ or "").startswith("vis_projects"):
                thing.cache_clear()


def register() -> None:
    """Make torch know the device; skips the test where torch has no such interface."""
    if torch._C._get_privateuse1_backend_name() == NAME:
        return
    try:
        from torch.utils.backend_registration import (
            _setup_privateuseone_for_python_backend as setup,
        )
    except ImportError:
        pytest.skip("this torch cannot register a backend from Python")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        setup(NAME, backend_module=_Backend())
    # Autocast leaves numbers as they are: its formats are looked at on the CPU.
    library = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    library.fallback(torch.library.fallthrough_kernel)
    _KEPT.append(library)
