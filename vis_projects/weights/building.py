"""A model with its weights, ready to be tested or to segment."""

from __future__ import annotations

import logging
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from ..structures import InputError
from .loading import load_for_test
from .own_weights import own_weights_later
from .verdict import Verdict

logger = logging.getLogger(__name__)


def build_for_test(cfg: CfgNode) -> tuple[nn.Module, Verdict]:
    """Build the model of a config in evaluation mode and give it ``MODEL.WEIGHTS``.

    Raises:
        InputError: weights that cannot be read or do not fit, or none for a trained part.
    """
    with own_weights_later():
        model = build_model(cfg)
    model.eval()
    return model, load_for_test(cfg, model)


def last_weights(cfg: CfgNode) -> str:
    """Return the file that OUTPUT_DIR/last_checkpoint names, "" if there is none.

    Raises:
        InputError: it names a file that is not there.
    """
    record = Path(cfg.OUTPUT_DIR) / "last_checkpoint"
    if not record.is_file():
        return ""
    file = record.parent / record.read_text().strip()
    if not file.is_file():
        raise InputError(f"{record}: names {file.name}, which is not there; name a file in it")
    logger.info("--resume: weights of %s", file)
    return str(file)
