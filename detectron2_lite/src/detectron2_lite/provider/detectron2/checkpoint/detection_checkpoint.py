"""Checkpoints in Detectron2's layout, and weights from its model zoo and from Caffe2.

Loading runs no code from a file: ``.pth`` goes through ``weights_only``, ``.pkl`` through an
unpickler that knows arrays and plain containers alone.
"""

from __future__ import annotations

import collections
import os
import pickle
from typing import Any
from urllib.parse import parse_qs, urlparse

import numpy as np
import torch
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from fvcore.common.checkpoint import Checkpointer
from torch import nn

_HEURISTICS = "matching_heuristics"


def _encode(text: str, encoding: str) -> bytes:
    # Python 3 writes bytes in protocol 2 as a call of `_codecs.encode`; only latin1 occurs there.
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"encoding '{encoding}' is not expected in a weights file")
    return text.encode("latin1")


class _ArrayUnpickler(pickle.Unpickler):
    """Refuses every global but those that arrays and plain containers are built from."""

    # Taken from what NumPy itself writes: the modules' names differ between its versions.
    _NUMPY = {
        "ndarray": np.ndarray,
        "dtype": np.dtype,
        "_reconstruct": np.zeros(1).__reduce__()[0],
        "_frombuffer": np.zeros(1).__reduce_ex__(5)[0],
        "scalar": np.float32(0).__reduce__()[0],
    }
    _OTHER = {
        ("_codecs", "encode"): _encode,
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("builtins", "set"): set,
        ("__builtin__", "set"): set,
        ("builtins", "complex"): complex,
        ("__builtin__", "complex"): complex,
        ("builtins", "bytearray"): bytearray,
        ("__builtin__", "bytearray"): bytearray,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._OTHER:
            return self._OTHER[module, name]
        known = ("numpy", "core.multiarray", "core.numeric", "_core.multiarray", "_core.numeric")
        place = module.removeprefix("numpy.")
        if place in known and name in self._NUMPY:
            return self._NUMPY[name]
        raise pickle.UnpicklingError(
            f"it names '{module}.{name}', which weights do not need and which could run code"
        )


def _load_pickle(path: str) -> Any:
    """Unpickle arrays and containers. Raises pickle.UnpicklingError for anything else."""
    with PathManager.open(path, "rb") as f:
        try:
            return _ArrayUnpickler(f, encoding="latin1").load()
        except pickle.UnpicklingError as error:
            reason = " ".join(str(error).split())
            raise pickle.UnpicklingError(f"{path} is refused: {reason}") from None
        except (EOFError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise pickle.UnpicklingError(f"{path} is no readable pickle file: {error}") from error


def _load_torch(path: str) -> Any:
    """``torch.load`` onto the CPU. Raises pickle.UnpicklingError for more than tensors and data."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = " ".join(str(error).split())
        start = reason.find("Unsupported")
        reason = reason[max(start, 0) :].split(". ", maxsplit=1)[0]
        raise pickle.UnpicklingError(
            f"{path} is refused: {reason}. Keep only tensors, numbers, text and containers in it, "
            "or list a trusted class with torch.serialization.add_safe_globals"
        ) from None
    except (EOFError, RuntimeError) as error:
        reason = (str(error).splitlines() or ["unexpected end"])[0]
        raise RuntimeError(f"{path} is no readable checkpoint file: {reason}") from error


class DetectionCheckpointer(Checkpointer):
    """fvcore's Checkpointer that also reads model-zoo ``.pkl``, Caffe2 and pycls files.

    Only rank 0 writes unless ``save_to_disk`` says otherwise. A path may carry the query
    ``?matching_heuristics=True``: names are then matched by their ends.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ) -> None:
        super().__init__(
            model,
            save_dir,
            save_to_disk=comm.is_main_process() if save_to_disk is None else save_to_disk,
            **checkpointables,
        )
        self.path_manager = PathManager
        self._heuristics = False

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load the model and the checkpointables from ``path``; "" loads nothing.

        Returns what else the file holds.

        Raises:
            FileNotFoundError: no such file. OSError: some processes see the file, others do not.
            pickle.UnpicklingError: the file holds more than weights and plain data.
            ValueError: an unknown query, or names that match ambiguously.
        """
        if path:
            path, self._heuristics = _split_query(path)
            path = self.path_manager.get_local_path(path)
            found = comm.all_gather(os.path.isfile(path))
            if not any(found):
                raise FileNotFoundError(f"checkpoint '{path}' does not exist")
            if not all(found):
                missing = [rank for rank, here in enumerate(found) if not here]
                raise OSError(f"checkpoint '{path}' is not visible to ranks {missing}")
        return super().load(path, *args, **kwargs)

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".pkl"):
            data = _load_pickle(filename)
            if not isinstance(data, dict):
                raise pickle.UnpicklingError(f"{filename}: expected a dict of weights")
            if "model" in data and "__author__" in data:
                self.logger.info("Reading a file from '%s'", data["__author__"])
            else:
                blobs = data.get("blobs", data)
                model = {k: v for k, v in blobs.items() if not k.endswith("_momentum")}
                data = {"model": model, "__author__": "Caffe2", _HEURISTICS: True}
        elif filename.endswith(".pyth"):
            state = _load_torch(filename)
            if "model_state" not in state:
                raise KeyError(f"{filename} has no key 'model_state'")
            model = {
                k: v
                for k, v in state["model_state"].items()
                if not k.endswith("num_batches_tracked")
            }
            data = {"model": model, "__author__": "pycls", _HEURISTICS: True}
        else:
            data = _load_torch(filename)
            if "model" not in data:
                data = {"model": data}
        if self._heuristics:
            data[_HEURISTICS] = True
        return data

    def _load_model(self, checkpoint: dict[str, Any]):
        if checkpoint.get(_HEURISTICS, False):
            from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts

            self._convert_ndarray_to_tensor(checkpoint["model"])
            checkpoint["model"] = align_and_update_state_dicts(
                self.model.state_dict(),
                checkpoint["model"],
                c2_conversion=checkpoint.get("__author__") == "Caffe2",
            )
        incompatible = super()._load_model(checkpoint)
        # Old files hold buffers that are computed from the configuration today.
        computed = ("pixel_mean", "pixel_std")
        incompatible.missing_keys[:] = [k for k in incompatible.missing_keys if k not in computed]
        incompatible.unexpected_keys[:] = [
            k
            for k in incompatible.unexpected_keys
            if k not in computed and "anchor_generator.cell_anchors" not in k
        ]
        return incompatible

    def _convert_ndarray_to_tensor(self, state_dict: dict[str, Any]) -> None:
        # Unpickled arrays may be read-only, which torch.from_numpy warns about.
        for key, value in state_dict.items():
            if isinstance(value, np.ndarray) and not value.flags.writeable:
                state_dict[key] = value.copy()
        super()._convert_ndarray_to_tensor(state_dict)


def _split_query(path: str) -> tuple[str, bool]:
    """Split ``path?matching_heuristics=True`` into the path and the flag."""
    parsed = urlparse(path)
    if "?" not in path or os.path.isfile(path):
        return path, False
    query = parse_qs(parsed.query)
    heuristics = query.pop(_HEURISTICS, ["False"]) == ["True"]
    if query:
        raise ValueError(f"{path}: unknown query {', '.join(query)}; known: {_HEURISTICS}")
    return parsed._replace(query="").geturl(), heuristics
