"""Which shipped config makes a file below ``output/`` that another config starts from."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import yaml

from ..config import config_root, shipped_configs

_ENDS = ("model_final.pth", "model_ema.pth")


def config_that_makes(path: str) -> str:
    """Say how a missing default start is made, "" if no shipped config tells."""
    place = PurePosixPath(str(path).replace("\\", "/"))
    if place.name in _ENDS and (config := _by_folder().get(str(place.parent))):
        return f"it is made by: train_net.py --config-file configs/{config}"
    if config := _by_weights().get(str(place)):
        system = config.split("/")[0]
        return (
            "name the authors' file itself as MODEL.WEIGHTS, or convert it: "
            f"tools/convert_weights.py {system} OFFICIAL {place}"
        )
    return ""


@lru_cache(maxsize=1)
def _configs() -> dict[str, dict[str, Any]]:
    """Return every shipped config file, read as plain YAML."""
    root = config_root()
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(shipped_configs(), key=lambda f: (len(f.parts), str(f))):
        try:
            values = yaml.safe_load(file.read_text())
        except yaml.YAMLError:
            continue
        if isinstance(values, dict):
            found[file.relative_to(root).as_posix()] = values
    return found


def _by_folder() -> dict[str, str]:
    """Return OUTPUT_DIR -> config file, what a ``_BASE_`` sets included."""
    out: dict[str, str] = {}
    for name in _configs():
        folder = _output_dir(name)
        if folder and not PurePosixPath(name).name.startswith("Base-"):
            out.setdefault(PurePosixPath(folder).as_posix(), name)
    return out


def _output_dir(name: str) -> str:
    """Return the OUTPUT_DIR of a config, its own or inherited, "" if none is set."""
    for _ in range(8):  # bases of bases
        values = _configs().get(name, {})
        if isinstance(folder := values.get("OUTPUT_DIR"), str):
            return folder
        base = values.get("_BASE_")
        if not isinstance(base, str):
            return ""
        parent = PurePosixPath(name).parent / base
        name = os.path.normpath(parent).replace(os.sep, "/")
    return ""


def _by_weights() -> dict[str, str]:
    """Return MODEL.WEIGHTS -> config file."""
    out: dict[str, str] = {}
    for name, values in _configs().items():
        model = values.get("MODEL")
        if isinstance(model, dict) and isinstance(weights := model.get("WEIGHTS"), str):
            out.setdefault(weights, name)
    return out
