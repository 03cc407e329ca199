"""Loading weights with an error that says what is wrong, and never running code from a file."""

from __future__ import annotations

import pickle

from detectron2.utils.file_io import PathManager
from torch import nn

from ..structures import InputError
from .checkpointer import VideoCheckpointer


def load_weights(model: nn.Module, path: str) -> None:
    """Load ``MODEL.WEIGHTS`` into a model: a ``.pth`` or Detectron2 ``.pkl`` file or URL.

    Missing and unexpected keys are logged. Nothing in the file is executed.

    Raises:
        InputError: no such file, a file that is damaged or refused, or one that has not a single
            tensor for this model.
    """
    try:
        local = PathManager.get_local_path(path.split("?", 1)[0])
        if not PathManager.isfile(local):
            raise FileNotFoundError(path)
    except OSError as error:
        raise InputError(
            f"weights {path}: cannot be read ({error.strerror or 'no such file'})"
        ) from None
    counters = ("num_batches_tracked", "pixel_mean", "pixel_std")  # nobody misses these
    needed = {k for k in model.state_dict() if not k.endswith(counters)}
    checkpointer = VideoCheckpointer(model)
    try:
        checkpointer.load(path, checkpointables=[])
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
    ) as error:
        raise InputError(
            f"weights {path}: not a readable checkpoint ({' '.join(str(error).split())[:200]})"
        ) from None
    found = checkpointer.incompatible
    absent = {*found.missing_keys, *(entry[0] for entry in found.incorrect_shapes)}
    if needed and needed <= absent:
        raise InputError(
            f"weights {path}: no tensor fits {type(model).__name__}; official checkpoints need "
            "tools/convert_weights.py first"
        )
