"""Convert an official checkpoint to this project's layout.

vis weights convert crossvis official.pth ours.pth

Nothing in the official file is executed: it is read with torch's weights-only unpickler.
"""

from __future__ import annotations

import argparse
from pathlib import Path

SYSTEMS = ("cfbi", "crossvis", "frtm", "seq_mask_rcnn", "swin")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="command", required=True)
    convert = commands.add_parser("convert", help="the authors' file to ours")
    convert.add_argument("system", choices=SYSTEMS)
    convert.add_argument("official", type=Path, help="the authors' checkpoint")
    convert.add_argument("out", type=Path, help="file to write, .pth")


def run(args: argparse.Namespace) -> int:
    from ..engine.official_weights import convert_official

    written, read = convert_official(args.system, args.official, args.out)
    print(f"{args.out}: {written} tensors of {read}")
    return 0
