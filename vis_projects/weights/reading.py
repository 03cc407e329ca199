"""Reading weight files of every kind safely: what is in them, or what they are instead.

The kind is told by a file's first bytes, not by its name.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import parse_qs, urlparse

import numpy as np
import torch
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from ..structures import InputError
from .unpickling import Stub, read_torch_legacy, read_torch_zip, unpickle

logger = logging.getLogger(__name__)

# Where projects keep the tensors: ours and Detectron2's, most others', pycls', older ones'.
WRAPPERS = ("model", "state_dict", "model_state", "model_state_dict", "net", "network", "weights")
CARD = "vis_projects"  # what a checkpoint of ours says of itself
_HEURISTICS = "matching_heuristics"


@dataclass
class WeightsFile:
    """What a weights file holds.

    Attributes:
        path: as the user named it.
        state: name -> tensor, without wrappers and without a ``module.`` before every name.
        card: what the file says of itself (``card.py``); empty for others' files.
        names: "exact", "ends" (names match by their ends) or "caffe2" (and are renamed first).
        unread: names of classes whose objects were left unread.
    """

    path: str
    state: dict[str, torch.Tensor]
    card: dict[str, Any] = field(default_factory=dict)
    names: str = "exact"
    unread: tuple[str, ...] = ()


def read_weights(path: str) -> WeightsFile:
    """Read a weights file: a local file, a URL, ``detectron2://``, ``zoo://``.

    Torch checkpoints of any age, Detectron2's and Caffe2's ``.pkl``, pycls' ``.pyth`` and
    ``.safetensors``. Nothing in the file is executed.

    Raises:
        InputError: no such file, no network, or no weights in it; the message says what it is.
    """
    local, by_ends = fetch(path)
    kind = kind_of(local)
    if kind in _NO_WEIGHTS:
        raise InputError(f"weights {path}: {_NO_WEIGHTS[kind]}")
    try:
        return _READERS[kind](path, local, by_ends)
    except InputError:
        raise
    except (
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
    ) as error:
        raise InputError(
            f"weights {path}: this file is damaged or cut off ({reason(error)}): get it again"
        ) from None


def glance(local: str) -> dict[str, Any]:
    """Return the card of a local file of ours without reading its tensors; {} of any other."""
    try:
        if kind_of(local) == "torch_zip":
            data = torch.load(local, map_location="cpu", weights_only=True, mmap=True)
            card = data.get(CARD, {}) if isinstance(data, Mapping) else {}
        elif kind_of(local) == "safetensors":
            card = read_weights(local).card
        else:
            return {}
    except (InputError, pickle.UnpicklingError, RuntimeError, OSError, ValueError, EOFError):
        return {}
    return dict(card) if isinstance(card, Mapping) else {}


def reason(error: BaseException) -> str:
    """Return an error's first sentence in one line, without terminal codes."""
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", str(error))
    text = " ".join(text.split()) or type(error).__name__
    return re.split(r"(?<=[^.]{3})\. (?=[A-Z\[])", text, maxsplit=1)[0]


# Finding --------------------------------------------------------------------------------------


def fetch(path: str) -> tuple[str, bool]:
    """Return the local copy of a weights file, and whether its names match by their ends.

    A URL may carry a query (``?download=true``); ``?matching_heuristics=True`` is Detectron2's.
    Of several processes on a machine the first downloads, the others find its copy.

    Raises:
        InputError: no such file or no network.
    """
    place, by_ends = path, False
    if "?" in path and not os.path.isfile(path):
        query = parse_qs(urlparse(path).query)
        by_ends = query.get(_HEURISTICS) == ["True"]
        if by_ends or "://" not in path:
            place = path.split("?", 1)[0]
    return first_rank_first(lambda: local_copy(path, place)), by_ends


def first_rank_first(get: Any) -> Any:
    """Call ``get`` on the first process of each machine, then on the others.

    Raises:
        InputError: on every process, if it failed on the first.
    """
    if comm.get_world_size() == 1:
        return get()
    result, problem = None, ""
    for turn in (True, False):
        if (comm.get_local_rank() == 0) == turn and not problem:
            try:
                result = get()
            except InputError as error:
                problem = str(error)
        problem = next((p for p in comm.all_gather(problem) if p), "")
        if problem:
            raise InputError(problem)
    return result


def local_copy(path: str, place: str = "") -> str:
    """Return the local file of a path, downloaded if it is a URL (``place``: what to open).

    Raises:
        InputError: no such file or no network.
    """
    try:
        local = PathManager.get_local_path(place or path)
    except InputError:
        raise
    except (OSError, URLError, ValueError, RuntimeError, AssertionError) as error:
        raise InputError(
            f"weights {path}: cannot be downloaded ({reason(error)}): fetch it by hand and name "
            "the local file"
        ) from None
    if os.path.isdir(local):
        raise InputError(f"weights {path}: is a folder; name the file in it")
    if not os.path.isfile(local):
        raise InputError(f"weights {path}: cannot be read (no such file)")
    if not os.access(local, os.R_OK):
        raise InputError(f"weights {path}: cannot be read (no permission)")
    return local


# Kinds ----------------------------------------------------------------------------------------

_NO_WEIGHTS = {
    "empty": "this file is empty: the download was cut off; get it again",
    "html": "this file is an HTML page, not weights: open the address in a browser, follow its "
    "download link and name that file",
    "git-lfs": "this file is a git-lfs pointer, not weights: run git lfs pull where it came from",
    "xml": "this file is an XML answer of a server, not weights: the address is not the file's",
    "json": "this file is JSON text, not weights",
    "text": "this file is text, not weights",
    "gzip": "this file is packed (gzip): unpack it and name the file in it",
    "rar": "this file is packed (rar or 7z): unpack it and name the file in it",
    "tar": "this file is a tar archive: unpack it and name the file in it",
    "hdf5": "this file is HDF5 (Keras): such weights are not supported",
    "zip": "this file is a zip archive without a checkpoint of torch in it: unpack it and name "
    "the file in it",
    "onnx": "this file is a network in ONNX form, not a checkpoint",
}


def kind_of(file: str | Path) -> str:
    """Return what a file is by its first bytes: a key of ``_READERS`` or of ``_NO_WEIGHTS``."""
    size = os.path.getsize(file)
    if size == 0:
        return "empty"
    with open(file, "rb") as stream:
        head = stream.read(1024)
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head[:4] == b"PK\x03\x04":
        return _kind_of_zip(file)
    if head[:2] == b"\x1f\x8b":
        return "gzip"
    if head[:4] == b"Rar!" or head[:6] == b"7z\xbc\xaf\x27\x1c":
        return "rar"
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        return "hdf5"
    if head[257:262] == b"ustar":
        return "tar"
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "html"
    if start.startswith(b"<"):
        return "html" if b"<html" in head.lower() else "xml"
    if start.startswith(b"version https://git-lfs"):
        return "git-lfs"
    length = int.from_bytes(head[:8], "little")
    if size > 10 and head[8:9] == b"{" and 2 <= length <= min(size - 8, 100 << 20):
        return "safetensors"
    if head[:1] == b"\x80":  # a pickle of protocol 2 or later
        return "torch_legacy" if head[2:14] == _LEGACY_START else "pickle"
    if start.startswith((b"{", b"[")):
        return "json"
    if b"\x00" not in head and _is_text(head):
        return "pickle" if head[:1] in b"(}]c" and b"\n" in head else "text"
    return "pickle"


# The number that begins torch's older files, as its pickle writes it.
_LEGACY_START = bytes.fromhex("8a0a6cfc9c46f9206aa85019")


def _kind_of_zip(file: str | Path) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return "torch_zip"  # cut off: the reader says so
    return "torch_zip" if any(n.split("/")[-1] == "data.pkl" for n in names) else "zip"


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4  # a letter cut in two at the end
    return all(c.isprintable() or c in "\r\n\t" for c in text)


# Readers --------------------------------------------------------------------------------------


def _read_torch(path: str, local: str, by_ends: bool) -> WeightsFile:
    read = read_torch_zip if kind_of(local) == "torch_zip" else read_torch_legacy
    unread: set[str] = set()
    try:
        data = torch.load(local, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        data, unread = read(local)
    return _unwrapped(path, data, unread, by_ends)


def _read_pickle(path: str, local: str, by_ends: bool) -> WeightsFile:
    with open(local, "rb") as file:
        data, unread = unpickle(file)
    if isinstance(data, Mapping) and "model" in data and "__author__" in data:
        by_ends = by_ends or bool(data.get(_HEURISTICS, False))
        return _unwrapped(path, data, unread, by_ends)
    if isinstance(data, Mapping):  # Caffe2
        blobs = data.get("blobs", data)
        if isinstance(blobs, Mapping):
            blobs = {k: v for k, v in blobs.items() if not str(k).endswith("_momentum")}
            found = _unwrapped(path, blobs, unread, by_ends)
            found.names = "caffe2"
            return found
    return _unwrapped(path, data, unread, by_ends)


def _read_safetensors(path: str, local: str, by_ends: bool) -> WeightsFile:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise InputError(
            f"weights {path}: .safetensors files need the package safetensors "
            "(pip install safetensors)"
        ) from None
    try:
        with safe_open(local, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise EOFError(reason(error)) from None
    card = json.loads(metadata.get(CARD, "{}"))
    found = _unwrapped(path, state, set(), by_ends)
    found.card = card
    return found


_READERS = {
    "torch_zip": _read_torch,
    "torch_legacy": _read_torch,
    "pickle": _read_pickle,
    "safetensors": _read_safetensors,
}


def _unwrapped(path: str, data: Any, unread: set[str], by_ends: bool) -> WeightsFile:
    """Find the tensors, whatever container their authors chose."""
    if not isinstance(data, Mapping):
        raise InputError(f"weights {path}: it holds {_described(data)} instead of named tensors")
    card = data.get(CARD, {})
    state = data
    while inner := [k for k in WRAPPERS if isinstance(state.get(k), Mapping)]:
        key = next((k for k in inner if _has_tensors(state[k])), inner[0])
        by_ends = by_ends or key == "model_state"  # pycls
        state = state[key]
    if not _has_tensors(state):
        key = next((k for k in WRAPPERS if k in state), None)
        found = f"its entry {key!r} is {_described(state[key])}" if key else "no tensor is in it"
        raise InputError(f"weights {path}: {found}; is it the weights file?")
    left = [n for n in sorted(unread) if not n.startswith("numpy.")]
    if left:
        logger.info("weights %s: objects of %s are left unread", path, ", ".join(left))
    return WeightsFile(
        path,
        _tensors(state),
        dict(card) if isinstance(card, Mapping) else {},
        "ends" if by_ends else "exact",
        tuple(sorted(unread)),
    )


def _has_tensors(state: Mapping[Any, Any]) -> bool:
    return any(isinstance(v, torch.Tensor | np.ndarray) and np.ndim(v) for v in state.values())


def _described(value: Any) -> str:
    if isinstance(value, Stub):
        return f"an object of the class {value.name}, which is not read,"
    if isinstance(value, torch.Tensor | np.ndarray):
        return "one single tensor"
    return f"a {type(value).__name__}"


def _tensors(state: Mapping[Any, Any]) -> dict[str, torch.Tensor]:
    """Keep what is a tensor; strip ``module.`` (DataParallel) where every name has it."""
    out: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            value = torch.from_numpy(value if value.flags.writeable else value.copy())
        if isinstance(value, torch.Tensor):
            out[str(key)] = value.detach()
    while out and all(k.startswith("module.") for k in out):
        out = {k.removeprefix("module."): v for k, v in out.items()}
    return out
