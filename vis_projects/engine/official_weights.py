"""Converting the authors' checkpoints to a file of our layout; nothing in them is executed."""

from __future__ import annotations

import pickle
from importlib import import_module
from pathlib import Path

import torch

from ..structures import InputError
from .checkpointer import save_weights

# System -> module with `convert(state) -> state`.
CONVERTERS = {
    "crossvis": "vis_projects.crossvis.convert",
    "frtm": "vis_projects.frtm.convert",
    "seq_mask_rcnn": "vis_projects.seq_mask_rcnn.convert",
    "cfbi": "vis_projects.cfbi.convert",
    "swin": "vis_projects.msn.convert",
}
CONTAINERS = ("state_dict", "model", "model_state")


def convert_official(system: str, official: Path, out: Path) -> tuple[int, int]:
    """Write ``out`` from the authors' file; returns the numbers of tensors written and read.

    Raises:
        InputError: the file is missing, damaged or of another system.
    """
    if system not in CONVERTERS:
        raise InputError(f"no system {system!r}: {', '.join(sorted(CONVERTERS))}")
    state = read_state(official)
    try:
        converted = import_module(CONVERTERS[system]).convert(state)
    except KeyError as error:
        raise InputError(
            f"{official}: key {error} is missing: this is no {system} checkpoint"
        ) from None
    out.parent.mkdir(parents=True, exist_ok=True)
    save_weights(converted, out)
    return len(converted), len(state)


def read_state(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint, whatever container its authors chose.

    Raises:
        InputError: missing, damaged, no tensors, or it would run code.
    """
    try:
        data = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{file}: no such checkpoint") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{file}: not a checkpoint of plain tensors ({reason})") from None
    for key in CONTAINERS:
        if isinstance(data, dict) and isinstance(data.get(key), dict):
            data = data[key]
    if isinstance(data, dict):
        data = {str(k).removeprefix("module."): v for k, v in data.items()}
        data = {k: v for k, v in data.items() if isinstance(v, torch.Tensor)}
    if not isinstance(data, dict) or not data:
        raise InputError(f"{file}: there is no tensor in this file; is it the weights file?")
    return data
