#!/usr/bin/env python
"""Convert an official checkpoint to this project's layout.

python tools/convert_weights.py crossvis official.pth ours.pth

Nothing in the official file is executed: it is read with torch's weights-only unpickler.
"""

from __future__ import annotations

import argparse
import os
import pickle
from importlib import import_module
from pathlib import Path

import torch

from vis_projects.structures import InputError, one_line_errors

# System -> module with `convert(state) -> state`.
CONVERTERS = {
    "crossvis": "vis_projects.crossvis.convert",
    "frtm": "vis_projects.frtm.convert",
    "seq_mask_rcnn": "vis_projects.seq_mask_rcnn.convert",
    "cfbi": "vis_projects.cfbi.convert",
    "swin": "vis_projects.msn.convert",
}
CONTAINERS = ("state_dict", "model", "model_state")


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


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("system", choices=sorted(CONVERTERS))
    parser.add_argument("official", type=Path, help="the authors' checkpoint")
    parser.add_argument("out", type=Path, help="file to write, .pth")
    args = parser.parse_args(argv)
    state = read_state(args.official)
    try:
        converted = import_module(CONVERTERS[args.system]).convert(state)
    except KeyError as error:
        raise InputError(
            f"{args.official}: key {error} is missing: this is no {args.system} checkpoint"
        ) from None
    args.out.parent.mkdir(parents=True, exist_ok=True)
    part = args.out.with_name(args.out.name + ".part")
    torch.save({"model": converted}, part)
    os.replace(part, args.out)
    print(f"{args.out}: {len(converted)} tensors of {len(state)}")


if __name__ == "__main__":
    with one_line_errors("convert_weights.py"):
        main()
