"""The options of ``vis run`` that say in the first frame what to follow, without a mask file."""

from __future__ import annotations

import argparse
from typing import Any

DEFAULT_VOS = "configs/feature_match/lite0.yaml"  # needs no weights file
UVOS_WEIGHTS = "zoo://uvos_lite0"


def add_prompt_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to follow, without a mask file")
    group.add_argument(
        "--box",
        action="append",
        default=[],
        metavar="X0,Y0,X1,Y1",
        help="an object lies in this box of the first frame; several boxes are objects 1, 2, ...",
    )
    group.add_argument(
        "--point",
        action="append",
        default=[],
        metavar="[ID:]X,Y",
        help="a point on an object in the first frame (object 1 by default)",
    )
    group.add_argument(
        "--background-point",
        action="append",
        default=[],
        metavar="[ID:]X,Y",
        help="a point near an object that is not part of it",
    )


def prompted(args: argparse.Namespace) -> bool:
    """Tell whether the first masks come from boxes, points or proposals."""
    return bool(args.first_mask == "auto" or args.box or args.point or args.background_point)


def choose_config(args: argparse.Namespace, *, single: bool) -> None:
    """Take the default system where objects are given and nothing else is named.

    Raises:
        InputError: boxes or points for several videos, or beside a mask.
    """
    from ..structures import InputError

    if prompted(args) and not single:
        raise InputError(
            "--box, --point and --first-mask auto are for one video; many videos take "
            '--first-mask "masks/{name}.png"'
        )
    if args.first_mask and (args.box or args.point or args.background_point):
        raise InputError("--first-mask and --box or --point: give one of them")
    if args.config_file or args.weights:
        return
    if not (args.first_mask or prompted(args)):
        raise InputError(
            "give --config-file, --weights that carry their config, or what to follow: --box, "
            "--point or --first-mask"
        )
    args.config_file = DEFAULT_VOS


def first_frame_masks(args: argparse.Namespace, source: Any) -> Any:
    """Return the label map of the first frame that boxes, points or proposals give.

    Raises:
        InputError: bad prompts, nothing found, or a stream, whose first frame is not there yet.
    """
    from ..structures import InputError
    from ..video.first_mask import first_masks, prompts_of

    prompts = prompts_of(args.box, args.point, args.background_point)
    if not source.seekable:
        raise InputError(
            "--box, --point and --first-mask auto need the first frame before the run: give a "
            "file or a folder, not a stream"
        )
    image = source.read(0)
    if args.first_mask == "auto":
        return _proposed(image, rgb=source.image_format == "RGB")
    return first_masks(image if source.image_format == "BGR" else image[..., ::-1], prompts)


def _proposed(image: Any, *, rgb: bool) -> Any:
    """Return the objects that the shipped unsupervised system finds in a frame."""
    from ..structures import InputError
    from ..video import VideoPredictor
    from ..video.first_mask import proposed_masks
    from ..weights import config_of_checkpoint, zoo_entries

    if UVOS_WEIGHTS.removeprefix("zoo://") not in zoo_entries():
        raise InputError(
            f"--first-mask auto needs {UVOS_WEIGHTS}, which does not ship yet: give --box"
        )
    predictor = VideoPredictor(config_of_checkpoint(UVOS_WEIGHTS))
    result = next(iter(predictor([image], rgb=rgb)))
    return proposed_masks(result.instances, above=predictor.cfg.TEST.FOREGROUND_THRESH)
