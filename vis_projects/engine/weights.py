"""Loading weights with an error that says what is wrong, and never running code from a file."""

from __future__ import annotations

import logging
import pickle

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from torch import nn

from ..structures import InputError

logger = logging.getLogger(__name__)


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
    before = {name: value.data_ptr() for name, value in model.state_dict().items()}
    try:
        report = _LoadReport(model)
        report.load(path)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise InputError(
            f"weights {path}: not a readable checkpoint ({' '.join(str(error).split())[:200]})"
        ) from None
    if before and report.missing >= len(before):
        raise InputError(
            f"weights {path}: no tensor fits {type(model).__name__}; official checkpoints need "
            "tools/convert_weights.py first"
        )


class _LoadReport(DetectionCheckpointer):
    """Counts the model keys that the checkpoint lacks."""

    missing = 0

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)

    def _log_incompatible_keys(self, incompatible) -> None:
        self.missing = len(incompatible.missing_keys) + len(incompatible.incorrect_shapes)
        super()._log_incompatible_keys(incompatible)
