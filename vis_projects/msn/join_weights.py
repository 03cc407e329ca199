"""One weights file for the pipeline out of those of its parts.

python -m vis_projects.msn.join_weights --detector D.pth --propagator P.pth --selector S.pth \
    [--reclassifier R.pth] OUT

Any part may be left out; the pipeline then starts it from random weights.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ..structures import InputError, one_line_errors
from ..weights import read_weights
from ..weights.formats import apply, formats_of

PARTS = ("detector", "propagator", "selector", "reclassifier")


def join_weights(parts: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the pipeline's state: each part's names with its prefix, once."""
    joined = {}
    for part, state in parts.items():
        for name, value in state.items():
            joined[f"{part}.{name.removeprefix(part + '.')}"] = value
    return joined


def _state(file: str) -> dict[str, torch.Tensor]:
    """Return a part's tensors; an official file is converted."""
    found = read_weights(file)
    layouts = [f for f in formats_of(found.state.keys()) if not f.own]
    return apply(file, found.state, layouts[0]) if layouts and not found.card else found.state


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for part in PARTS:
        parser.add_argument(f"--{part}", default="", help=f"weights of the {part}")
    parser.add_argument("out", type=Path, help="file to write, .pth")
    args = parser.parse_args(argv)
    files = {part: getattr(args, part) for part in PARTS if getattr(args, part)}
    if not files:
        raise InputError(
            "nothing to join: give --detector, --propagator, --selector or --reclassifier"
        )
    joined = join_weights({part: _state(file) for part, file in files.items()})
    args.out.parent.mkdir(parents=True, exist_ok=True)
    part = args.out.with_name(args.out.name + ".part")
    torch.save({"model": joined}, part)
    os.replace(part, args.out)
    print(f"{args.out}: {len(joined)} tensors of {', '.join(files)}")


if __name__ == "__main__":
    with one_line_errors("join_weights"):
        main()
