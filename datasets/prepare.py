#!/usr/bin/env python
"""Check, split and convert data sets. Folders are those of datasets/README.md, below
$DETECTRON2_DATASETS, or ``datasets`` in the working directory.

python datasets/prepare.py check davis_2016_val ytvis_2019_train   # reads every frame and mask
python datasets/prepare.py check own_vis:my.json:my/images
python datasets/prepare.py split ytvis_2019 --videos 200           # local_{train,val}.json
python datasets/prepare.py convert voc --split train
python datasets/prepare.py convert synthetic --name synthetic_vos_val --out out/clips
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vis_projects.data import dataset_root
from vis_projects.data.dataset_check import check_dataset
from vis_projects.data.local_split import split_dataset
from vis_projects.data.still_conversion import convert_openimages, convert_voc
from vis_projects.data.synthetic_export import export_synthetic
from vis_projects.structures import InputError, one_line_errors


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    main = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = main.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="name the first bad entry of data sets, if any")
    check.add_argument("names", nargs="+", help="registered names, or own_*:... names")
    check.add_argument("--quick", action="store_true", help="only the first frame of each video")
    split = commands.add_parser("split", help="hold out a fixed part of a training set")
    split.add_argument("name", help="ytvis_2019, ytvis_2021, ovis, youtube_vos_2018 or _2019")
    split.add_argument("--videos", type=int, help="videos to hold out (default: a tenth)")
    split.add_argument("--seed", type=int, default=0)
    convert = commands.add_parser("convert", help="write a COCO json, or the synthetic set's files")
    convert.add_argument("what", choices=["voc", "openimages", "synthetic"])
    convert.add_argument("--root", type=Path, help="folder of the set (default: below the root)")
    convert.add_argument("--split", default="train", help="train, val (OpenImages: validation)")
    convert.add_argument("--name", default="synthetic_val", help="the synthetic set to write")
    convert.add_argument("--out", type=Path, help="where to write the synthetic set")
    return main


def run(args: argparse.Namespace) -> None:
    """Do what the command line says.

    Raises:
        InputError: a data set is missing or broken, or an argument is.
    """
    if args.command == "check":
        for name in args.names:
            found = check_dataset(name, quick=args.quick, progress=sys.stderr.isatty())
            print(f"{name}: good; " + ", ".join(f"{n} {what}" for what, n in found.items()))
    elif args.command == "split":
        for file in split_dataset(args.name, count=args.videos, seed=args.seed):
            print(file)
    elif args.what == "synthetic":
        if args.out is None:
            raise InputError("convert synthetic needs --out FOLDER")
        print(export_synthetic(args.name, args.out, progress=sys.stderr.isatty()))
    else:
        root = args.root or dataset_root() / args.what
        convert = convert_voc if args.what == "voc" else convert_openimages
        print(convert(root, args.split, progress=sys.stderr.isatty()))


if __name__ == "__main__":
    with one_line_errors("prepare.py"):
        run(parser().parse_args())
