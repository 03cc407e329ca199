"""Check, split and convert data sets. Folders are those of datasets/README.md, below
$DETECTRON2_DATASETS, or ``datasets`` in the working directory.

vis data check                                   # every set that is there
vis data check davis_2016_val ytvis_2019_train   # reads every frame and mask
vis data check own_vis:my.json:my/images
vis data split ytvis_2019 --videos 200           # local_{train,val}.json
vis data split youtube_vos_2018 --list theirs.txt   # hold out the videos of a list
vis data show synthetic_train                    # a sheet of training clips
vis data convert voc --split train
vis data convert coco_clean                       # 58 freely licensed stills, from COCO 2017
vis data convert synthetic --name synthetic_vos_val --out out/clips
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="name the first bad entry of data sets, if any")
    check.add_argument(
        "names",
        nargs="*",
        help="registered names, or own_*:... names; default: every known set that is there",
    )
    check.add_argument("--quick", action="store_true", help="only the first frame of each video")
    split = commands.add_parser("split", help="hold out a fixed part of a training set")
    split.add_argument("name", help="ytvis_2019, ytvis_2021, ovis, youtube_vos_2018 or _2019")
    split.add_argument("--videos", type=int, help="videos to hold out (default: a tenth)")
    split.add_argument("--list", type=Path, help="file with the names of the videos to hold out")
    split.add_argument("--out", type=Path, help="folder of the files (default: the data set's)")
    split.add_argument("--folds", type=int, help="cut into parts instead: local_fold0, local_fold1")
    split.add_argument("--seed", type=int, default=0)
    convert = commands.add_parser("convert", help="write a COCO json, or the synthetic set's files")
    convert.add_argument("what", choices=["voc", "openimages", "synthetic", "coco_clean"])
    convert.add_argument("--root", type=Path, help="folder of the set (default: below the root)")
    convert.add_argument(
        "--split", default="train", help="train, val (VOC: trainval; OpenImages: validation)"
    )
    convert.add_argument("--name", default="synthetic_val", help="the synthetic set to write")
    convert.add_argument("--out", type=Path, help="where to write (synthetic, coco_clean)")
    show = commands.add_parser(
        "show", help="a sheet of training clips, histograms, what is left out"
    )
    show.add_argument("names", nargs="+", help="registered names, or own_*:... names")
    show.add_argument(
        "--config-file",
        default="configs/quickstart.yaml",
        help="whose sampling and augmentation are shown",
    )
    show.add_argument("--clips", type=int, default=12)
    show.add_argument("--output", type=Path, default=Path("data_sheet"), help="folder")


def run(args: argparse.Namespace) -> int:
    if args.command == "show":
        return _show(args)
    from ..data import dataset_root
    from ..data.catalog.local_split import split_dataset, split_folds
    from ..data.formats.coco_clean import build_coco_clean
    from ..data.formats.still_conversion import convert_openimages, convert_voc
    from ..data.synthetic.export import export_synthetic
    from ..structures import InputError

    progress = sys.stderr.isatty()
    if args.command == "check":
        return _check(args)
    if args.command == "split":
        if args.folds is not None:
            files = split_folds(args.name, args.folds, seed=args.seed)
        else:
            files = split_dataset(
                args.name, count=args.videos, seed=args.seed, listed=args.list, out=args.out
            )
        for file in files:
            print(file)
    elif args.what == "synthetic":
        if args.out is None:
            raise InputError("convert synthetic needs --out FOLDER")
        print(export_synthetic(args.name, args.out, progress=progress))
    elif args.what == "coco_clean":
        print(build_coco_clean(args.root or dataset_root() / "coco", args.out))
    else:
        convert = convert_voc if args.what == "voc" else convert_openimages
        print(convert(args.root or dataset_root() / args.what, args.split, progress=progress))
    return 0


def _show(args: argparse.Namespace) -> int:
    from ..config import load_config
    from ..report.data_sheet import write_data_sheet

    cfg = load_config(args.config_file)
    cfg.DATASETS.TRAIN = tuple(args.names)
    cfg.DATASETS.WEIGHTS = cfg.DATASETS.MAX_GAPS = ()  # of the config's own sets
    print(write_data_sheet(cfg, args.output, clips=max(args.clips, 1)))
    return 0


def _check(args: argparse.Namespace) -> int:
    """Check the sets named, or all that are there; of several a bad one does not end the rest."""
    from ..data import dataset_root
    from ..data.catalog.dataset_check import check_dataset
    from ..data.catalog.found_sets import found_datasets
    from ..structures import InputError

    names = args.names or found_datasets()
    if not names:
        raise InputError(
            f"{dataset_root().absolute()}: no known data set is here; set DETECTRON2_DATASETS to "
            "the folder that holds them, or name one (datasets/README.md lists names and layouts)"
        )
    bad = 0
    for name in names:
        try:
            found = check_dataset(name, quick=args.quick, progress=sys.stderr.isatty())
        except InputError as error:
            if len(names) == 1:
                raise
            bad += 1
            print(f"{name}: bad; {error}")
            continue
        print(f"{name}: {_summary(found)}")
    return 0 if not bad else 3 if bad < len(names) else 2


def _summary(found: dict[str, int]) -> str:
    """Say what a set holds; one without ground truth is not called good."""
    counts = [f"{n} {what.removesuffix('s') if n == 1 else what}" for what, n in found.items()]
    if found["objects"]:
        return f"good; {', '.join(counts)}"
    return f"readable; {', '.join(counts[:2])}, no ground truth: nothing to train on or to score"
