"""Unpickling without running anything: tensors, arrays and plain data; all else becomes a stub.

A pickle names the classes of its objects. Here only the handful that rebuild tensors, arrays and
containers are known; every other name gives an inert :class:`Stub`, which may be called, filled
and indexed while the pickle is read and does nothing. Weights beside such objects stay readable.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

_MAGIC = 0x1950A86A20F9469CFC6C  # first object of torch's file format before version 1.6
_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "UntypedStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}


class Stub:
    """Stands for an object of a class that is not known; ``name`` says which."""

    name = "an unknown class"

    def __new__(cls, *args: Any, **kwargs: Any) -> Stub:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Stub:
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    def add(self, value: Any) -> None:
        pass

    def __hash__(self) -> int:
        return id(self)


class _Builder:
    """A function that a pickle may call and can neither look into nor change."""

    __slots__ = ("_build",)

    def __init__(self, build: Callable[..., Any]) -> None:
        object.__setattr__(self, "_build", build)

    def __call__(self, *args: Any) -> Any:
        return self._build(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"the file tries to change {name} of a function")

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("the file tries to change a function")


class _StorageType:
    """The class of a torch storage, by name."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("the file tries to change a storage type")


def _tensor(flat: Any, offset: int, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    """A view of a storage; ``as_strided`` refuses one that reaches beyond its end."""
    if not isinstance(flat, torch.Tensor):
        raise pickle.UnpicklingError("a tensor without storage")
    return torch.as_strided(flat, tuple(size), tuple(stride), int(offset))


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _tensor_of_type(build: Any, kind: Any, args: Any, *_: Any) -> Any:
    """A tensor of a subclass, as a plain tensor."""
    return build(*args) if isinstance(build, _Builder) else Stub()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in encoding {encoding!r}")
    return text.encode("latin1")


def _plain_defaultdict(*_: Any) -> defaultdict:
    return defaultdict(None)  # its factory may be anything


_RECONSTRUCT = np.zeros(1).__reduce__()[0]
_SCALAR = np.float32(0).__reduce__()[0]
_FROM_BUFFER = np.zeros(1).__reduce_ex__(5)[0]


def _numpy_reconstruct(kind: Any, shape: Any, code: Any) -> Any:
    if kind is not np.ndarray:
        raise pickle.UnpicklingError("an array of a class that is not NumPy's own")
    return _RECONSTRUCT(np.ndarray, shape, code)


_NUMPY: dict[str, Any] = {
    "ndarray": np.ndarray,
    "dtype": np.dtype,
    "_reconstruct": _Builder(_numpy_reconstruct),
    "scalar": _Builder(_SCALAR),
    "_frombuffer": _Builder(_FROM_BUFFER),
}
_PLAIN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "Counter"): Counter,
    ("collections", "defaultdict"): _Builder(_plain_defaultdict),
    ("_codecs", "encode"): _Builder(_encode),
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch._utils", "_rebuild_tensor_v2"): _Builder(_tensor),
    ("torch._utils", "_rebuild_tensor"): _Builder(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Builder(_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): _Builder(_parameter),
    ("torch._tensor", "_rebuild_from_type_v2"): _Builder(_tensor_of_type),
    ("torch.nn.parameter", "Parameter"): _Builder(_parameter),
}
for _name, _kind in (("set", set), ("complex", complex), ("bytearray", bytearray)):
    _PLAIN["builtins", _name] = _PLAIN["__builtin__", _name] = _kind


class InertUnpickler(pickle.Unpickler):
    """Unpickles tensors, arrays and plain data; ``unknown`` collects the names of all else."""

    def __init__(
        self, file: IO[bytes], storages: Callable[[tuple], Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(file, **kwargs)
        self.unknown: set[str] = set()
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        known = _PLAIN.get((module, name))
        if known is None and module.split(".")[0] == "numpy":
            known = _NUMPY.get(name)
        if known is None and module in ("torch", "torch.storage", "torch.cuda"):
            if name in _STORAGE_DTYPES:
                known = _StorageType(_STORAGE_DTYPES[name])
            elif isinstance(getattr(torch, name, None), torch.dtype):
                known = getattr(torch, name)
        if known is None and module == "numpy.dtypes":
            known = _Builder(lambda *_: Stub())
        if known is not None:
            return known
        full = f"{module}.{name}"
        self.unknown.add(full)
        return type("Stub", (Stub,), {"name": full})

    def persistent_load(self, pid: Any) -> Any:
        if self._storages is None or not isinstance(pid, tuple):
            return Stub()
        return self._storages(pid)


def unpickle(file: IO[bytes]) -> tuple[Any, set[str]]:
    """Read one plain pickle; return its object and the names of the classes left unread."""
    reader = InertUnpickler(file, encoding="latin1")
    return reader.load(), reader.unknown


def read_torch_zip(path: str | Path) -> tuple[Any, set[str]]:
    """Read a file of ``torch.save`` (torch 1.6 and later) with stubs for unknown classes."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        index = next((n for n in names if n.split("/")[-1] == "data.pkl"), None)
        if index is None:
            raise pickle.UnpicklingError("a zip archive without data.pkl")
        folder = index[: -len("data.pkl")]
        order = folder + "byteorder"
        if order in names and archive.read(order) not in (b"little", b""):
            raise pickle.UnpicklingError("its numbers are in big-endian order")
        cache: dict[str, torch.Tensor] = {}

        def storage(pid: tuple) -> Any:
            if len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], _StorageType):
                return Stub()
            key = str(pid[2])
            if key not in cache:
                data = bytearray(archive.read(f"{folder}data/{key}"))
                cache[key] = _flat(data, pid[1].dtype)
            return cache[key]

        reader = InertUnpickler(io.BytesIO(archive.read(index)), storage)
        return reader.load(), reader.unknown


def read_torch_legacy(path: str | Path) -> tuple[Any, set[str]]:
    """Read a file of ``torch.save`` before 1.6: pickles, then the bytes of every storage."""
    with open(path, "rb") as file:
        if InertUnpickler(file).load() != _MAGIC:
            raise pickle.UnpicklingError("no checkpoint of torch")
        for _ in range(2):  # protocol version, sizes of numbers
            InertUnpickler(file).load()
        flats: dict[str, torch.Tensor] = {}

        def storage(pid: tuple) -> Any:
            if len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], _StorageType):
                return Stub()
            _, kind, key, _, count, *view = pid
            if key not in flats:
                flats[key] = torch.zeros(int(count), dtype=kind.dtype)
            if view and isinstance(view[0], tuple):
                _, offset, size = view[0]
                return flats[key][offset : offset + size]
            return flats[key]

        reader = InertUnpickler(file, storage)
        data = reader.load()
        for key in InertUnpickler(file).load():
            count = int.from_bytes(file.read(8), "little")
            flat = flats.get(key)
            if flat is None or count != flat.numel():
                raise EOFError("its storages are not those that its tensors name")
            target = flat.view(torch.uint8).numpy() if flat.numel() else np.zeros(0, np.uint8)
            if file.readinto(target) != target.nbytes:
                raise EOFError("it ends in the middle of a tensor")
        return data, reader.unknown


def _flat(data: bytearray, dtype: torch.dtype) -> torch.Tensor:
    return torch.frombuffer(data, dtype=dtype) if data else torch.zeros(0, dtype=dtype)
