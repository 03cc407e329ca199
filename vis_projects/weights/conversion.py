"""Writing an official checkpoint in this project's layout (``tools/convert_weights.py``)."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ..structures import InputError
from .formats import converted, systems
from .reading import read_weights


def convert_file(system: str, official: str, out: str | Path) -> str:
    """Convert an official file and write it; return a line that says what was done.

    Converting is never necessary: ``MODEL.WEIGHTS`` takes the official file as it is.

    Raises:
        InputError: an unknown system, a file that cannot be read or is another system's.
    """
    if system not in systems():
        raise InputError(f"system {system!r} is unknown: use {', '.join(systems())}")
    file = read_weights(official)
    state, layout = converted(official, file.state, system)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        torch.save({"model": state}, part)
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
    return f"{out}: {len(state)} tensors of {len(file.state)} ({layout.name})"
