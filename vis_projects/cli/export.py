"""Write networks for other runtimes, or results in the formats of other programs.

vis export model --config-file C --weights W.pth --format onnx --size 384x640 --output net.onnx
vis export results out/ --to coco --output tracks.json

model: the per-frame networks of a system for ONNX Runtime or torch.export. --size is that of the
network's input, rows x columns. A system with several networks writes one file for each; a JSON
beside each names inputs, outputs and what an image needs first. Every file is run once and compared
with the network it came from.

results: a folder of vis run, of one video or many (each then gets a file or folder named after it
in --output), a folder of indexed images, a .npy of label maps, a saved VideoResult, the YouTube-VIS
list of one video, or the COCO json that this command writes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

# Format of results -> suffix of its file; "" for a folder.
FORMATS = {
    "ytvis": ".json",
    "coco": ".json",
    "davis": "",
    "mot": ".txt",
    "labels": ".npy",
    "saved": ".json.gz",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parts = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    model = parts.add_parser("model", help="per-frame networks as ONNX or pt2")
    model.add_argument("--config-file", required=True)
    model.add_argument("--weights", default="", help="checkpoint; default: the config's own")
    model.add_argument("--format", choices=("onnx", "pt2"), default="onnx")
    model.add_argument("--size", required=True, help="rows x columns, such as 384x640")
    model.add_argument("--output", type=Path, help="default: the system's name")
    model.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE config overrides")
    results = parts.add_parser("results", help="tracks in the formats of other programs")
    results.add_argument("input", type=Path, help="a result, or the output folder of vis run")
    results.add_argument("--to", choices=tuple(FORMATS), required=True)
    results.add_argument("--output", type=Path, required=True, help="file or folder; must be new")
    results.add_argument(
        "--min-score", type=float, default=0.0, metavar="S", help="leave out tracks below S"
    )


def run(args: argparse.Namespace) -> int:
    return _results(args) if args.what == "results" else _model(args)


def _model(args: argparse.Namespace) -> int:
    from ..config import load_config
    from ..engine.export import export_model
    from ..structures import InputError

    try:
        height, width = (int(n) for n in args.size.lower().split("x"))
    except ValueError:
        raise InputError(f"--size {args.size}: give rows x columns, such as 384x640") from None
    opts = [*args.opts, *(["MODEL.WEIGHTS", args.weights] if args.weights else [])]
    cfg = load_config(args.config_file, opts)
    output = args.output or Path(cfg.MODEL.META_ARCHITECTURE.lower())
    for file in export_model(cfg, output, size=(height, width), kind=args.format):
        print(file)
    return 0


def _results(args: argparse.Namespace) -> int:
    from ..structures import InputError
    from ..structures.foreign_results import read_result
    from ..structures.writable import check_writable

    if not args.input.exists():
        raise InputError(f"{args.input}: no such result")
    check_writable(args.output.parent, "--output")
    if args.output.exists() and not (args.output.is_dir() and not any(args.output.iterdir())):
        raise InputError(f"{args.output}: is there already; name another --output")
    single = args.input.is_file() or (args.input / "results.json").is_file()
    children = [] if single else sorted(args.input.glob("*/results.json"))
    if not children:
        _write(read_result(args.input), args.to, args.output, args.min_score)
        print(args.output)
        return 0
    for file in children:
        place = args.output / f"{file.parent.name}{FORMATS[args.to]}"
        _write(read_result(file.parent), args.to, place, args.min_score)
        print(place)
    return 0


def _write(result: Any, kind: str, place: Path, min_score: float) -> None:
    import json

    import numpy as np

    place.parent.mkdir(parents=True, exist_ok=True)
    if kind == "davis":
        result.to_davis(place, min_score=min_score)
    elif kind == "saved":
        result.save(place)
    elif kind == "labels":
        with place.open("wb") as file:  # numpy would add a suffix
            np.save(file, result.to_labels(min_score=min_score))
    elif kind == "mot":
        place.write_text(result.to_mot(min_score=min_score))
    else:
        export = result.to_ytvis if kind == "ytvis" else result.to_coco
        place.write_text(json.dumps(export(min_score=min_score)))
