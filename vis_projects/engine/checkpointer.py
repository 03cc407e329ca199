"""Checkpoints: written atomically, loaded without running code, resumed exactly or not at all."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer

from ..structures import InputError
from ..weights.reading import CARD, kind_of, read_weights


def write_atomically(path: str | Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a file so that it is there whole or not at all, whenever the process is killed."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            try:
                write(file)
            except RuntimeError:  # of torch, where there may be no room
                file.write(bytes(1 << 20))
                raise
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


def remove_parts(folder: str | Path) -> None:
    """Remove what killed processes left half written in a folder."""
    for part in Path(folder).glob(".*.part"):
        part.unlink(missing_ok=True)


def read_file(path: str) -> dict[str, Any]:
    """Moved: ``vis_projects.weights.read_weights`` reads every kind of file."""
    warnings.warn("read_file is now vis_projects.weights.read_weights", stacklevel=2)
    return {"model": read_weights(path).state}


def _read_checkpoint(path: str) -> dict[str, Any]:
    """Read a checkpoint of ours with all its parts; nothing in it is executed."""
    with torch.serialization.safe_globals(_SAFE_GLOBALS):
        return torch.load(path, map_location="cpu", weights_only=True)


# What checkpoints hold beside tensors: numpy arrays and numbers.
_SAFE_GLOBALS = [
    np.ndarray,
    np.dtype,
    np.zeros(1).__reduce__()[0],
    np.float32(0).__reduce__()[0],
    *{type(np.dtype(code)) for code in "?bBhHiIlLefd"},
]


class VideoCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic writing and safe reading on every Detectron2.

    Attributes:
        card: what the checkpoint says of itself (``weights.make_card``).
    """

    card: dict[str, Any] | None = None

    def save(self, name: str, **extra: Any) -> None:
        """Write ``name.pth`` (model, checkpointables, ``extra``) and then ``last_checkpoint``."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        data.update(extra)
        if self.card is not None:
            data[CARD] = self.card
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", path)
        write_atomically(path, lambda file: torch.save(data, file))
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        path = Path(self.save_dir) / "last_checkpoint"
        write_atomically(path, lambda file: file.write(last_filename_basename.encode()))

    def _load_file(self, filename: str) -> dict[str, Any]:
        if kind_of(filename).startswith("torch"):
            data = _read_checkpoint(filename)
            return data if "model" in data else {"model": data}
        return {"model": read_weights(filename).state}

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
        checkpoint = _read_checkpoint(path)
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


def save_weights(
    model_state: dict[str, torch.Tensor], path: str | Path, card: dict[str, Any] | None = None
) -> None:
    """Write weights alone, atomically, in the layout that ``MODEL.WEIGHTS`` takes."""
    data: dict[str, Any] = {"model": model_state}
    if card is not None:
        data[CARD] = card
    write_atomically(path, lambda file: torch.save(data, file))
