"""Checkpoints: written atomically, loaded without running code, resumed exactly or not at all."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager

from ..structures import InputError


def write_atomically(path: str | Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a file so that it is there whole or not at all, whenever the process is killed."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def remove_parts(folder: str | Path) -> None:
    """Remove what killed processes left half written in a folder."""
    for part in Path(folder).glob(".*.part"):
        part.unlink(missing_ok=True)


class _PlainUnpickler(pickle.Unpickler):
    """Unpickles containers, numbers, text and numpy arrays; refuses every other name."""

    _RECONSTRUCT = np.zeros(1).__reduce__()[0]
    _SCALAR = np.float32(0).__reduce__()[0]
    _ALLOWED = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
        ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
        ("numpy.core.multiarray", "scalar"): _SCALAR,
        ("numpy._core.multiarray", "scalar"): _SCALAR,
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which may run code") from None


# What official checkpoints hold beside tensors: numpy arrays and numbers.
_SAFE_GLOBALS = [
    np.ndarray,
    np.dtype,
    _PlainUnpickler._RECONSTRUCT,
    _PlainUnpickler._SCALAR,
    *{type(np.dtype(code)) for code in "?bBhHiIlLefd"},
]


def read_file(path: str) -> dict[str, Any]:
    """Read a ``.pth`` or Detectron2 / Caffe2 ``.pkl`` file; nothing in it is executed.

    Returns a dict with the key ``model``. Caffe2 weights carry the flags with which Detectron2's
    checkpointer renames and matches them.

    Raises:
        pickle.UnpicklingError, RuntimeError, EOFError: damaged, or more than tensors and data.
    """
    if path.endswith(".pkl"):
        with PathManager.open(path, "rb") as file:
            data = _PlainUnpickler(file, encoding="latin1").load()
        if "model" in data and "__author__" in data:
            return data
        blobs = data.get("blobs", data)
        weights = {k: v for k, v in blobs.items() if not k.endswith("_momentum")}
        return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}
    with torch.serialization.safe_globals(_SAFE_GLOBALS):
        data = torch.load(path, map_location="cpu", weights_only=True)
    return data if "model" in data else {"model": data}


class VideoCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic writing and safe reading on every Detectron2."""

    def save(self, name: str, **extra: Any) -> None:
        """Write ``name.pth`` (model, checkpointables, ``extra``) and then ``last_checkpoint``."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        data.update(extra)
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", path)
        write_atomically(path, lambda file: torch.save(data, file))
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        path = Path(self.save_dir) / "last_checkpoint"
        write_atomically(path, lambda file: file.write(last_filename_basename.encode()))

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".pyth"):
            return super()._load_file(filename)
        data = read_file(filename)
        if getattr(self, "_heuristics", False):
            data["matching_heuristics"] = True
        return data

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        self.incompatible = super()._load_model(checkpoint)
        return self.incompatible

    def resume(self) -> dict[str, Any]:
        """Load everything from the last checkpoint in ``save_dir``.

        Raises:
            InputError: the file is missing, damaged, or of another model or optimiser.
        """
        try:
            path = self.get_checkpoint_file()
            if not os.path.isfile(path):
                raise FileNotFoundError("no such file")
            rest = self._load_all(path)
        except (OSError, pickle.UnpicklingError, EOFError, RuntimeError, ValueError) as error:
            raise InputError(
                f"checkpoint {path}: cannot be resumed ({' '.join(str(error).split())[:200]}): "
                f"name an earlier one in {self.save_dir}/last_checkpoint, or start without --resume"
            ) from None
        return rest

    def _load_all(self, path: str) -> dict[str, Any]:
        checkpoint = self._load_file(path)
        missing_parts = [k for k in self.checkpointables if k not in checkpoint]
        if missing_parts:
            raise ValueError(f"it holds weights but no {', '.join(missing_parts)}")
        expected = {k: tuple(v.shape) for k, v in self.model.state_dict().items()}
        stored = {k: tuple(v.shape) for k, v in checkpoint["model"].items()}
        wrong = [k for k in expected.keys() | stored.keys() if expected.get(k) != stored.get(k)]
        if wrong:
            raise ValueError(
                f"it was written for another model: {len(wrong)} of its tensors differ, "
                f"for example {min(wrong)}"
            )
        self.model.load_state_dict(checkpoint.pop("model"))
        self.logger.info("Resuming from %s", path)
        for key, part in self.checkpointables.items():
            part.load_state_dict(checkpoint.pop(key))
        return checkpoint


def save_weights(model_state: dict[str, torch.Tensor], path: str | Path) -> None:
    """Write weights alone, atomically, in the layout that ``MODEL.WEIGHTS`` takes."""
    write_atomically(path, lambda file: torch.save({"model": model_state}, file))
