"""Writing weights that ship with the package (``shipped/``), by whoever trained them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .reading import CARD
from .zoo import ZooEntry


def save_shipped(
    folder: str | Path, entry: ZooEntry, state: Mapping[str, torch.Tensor], card: Mapping[str, Any]
) -> Path:
    """Write ``NAME.safetensors`` and ``NAME.json`` into ``folder``; return the weights file.

    Args:
        entry: ``file``, ``sha256`` and ``megabytes`` are filled in.
        state: the model's tensors, without counters that nobody misses.
        card: of ``make_card`` or ``card_of``.
    """
    from safetensors.torch import save_file

    file = Path(folder) / f"{entry.name}.safetensors"
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}
    save_file(tensors, file, metadata={CARD: json.dumps(dict(card))})
    data = file.read_bytes()
    fields = {
        **asdict(entry),
        "file": file.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "megabytes": round(len(data) / 1e6, 1),
    }
    text = json.dumps({k: v for k, v in fields.items() if v}, indent=1)
    file.with_suffix(".json").write_text(text + "\n")
    return file
