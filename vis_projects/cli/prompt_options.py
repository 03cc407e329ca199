"""The options of ``vis run`` that say in the first frame what to follow, without a mask file."""

from __future__ import annotations

import argparse
from typing import Any

DEFAULT_VOS = "configs/feature_match/lite0.yaml"  # needs no weights file


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


def load_systems(args: argparse.Namespace, settings: Any) -> tuple[Any, Any]:
    """Return the config of the system that runs, and that of the one that proposes, or None.

    With ``--first-mask auto`` a named system that finds objects itself proposes them, and the
    default one follows; beside a named system that follows, the shipped one proposes.

    Raises:
        InputError: a config or weights that do not fit, or nothing is there that proposes.
    """
    from detectron2.modeling import META_ARCH_REGISTRY

    from ..bulk.worker import load_settings
    from ..config import load_config

    cfg = load_settings(settings, args.device)
    if args.first_mask != "auto":
        return cfg, None
    if getattr(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE), "takes_masks", False):
        from ..video.proposals import shipped_finder

        return cfg, shipped_finder(args.device)
    follower = load_config(DEFAULT_VOS, ["MODEL.DEVICE", args.device] if args.device else [])
    return follower, cfg


def first_frame_masks(args: argparse.Namespace, source: Any, finder: Any = None) -> Any:
    """Return the label map of the first frame that boxes, points or proposals give.

    Args:
        finder: config of the system that proposes (``--first-mask auto``).

    Raises:
        InputError: bad prompts, nothing found, or a stream, whose first frame is not there yet.
    """
    from ..structures import InputError
    from ..video import VideoPredictor
    from ..video.first_mask import first_masks, prompts_of
    from ..video.proposals import ShippedFinder, propose

    prompts = prompts_of(args.box, args.point, args.background_point)
    if not source.seekable:
        raise InputError(
            "--box, --point and --first-mask auto need the first frame before the run: give a "
            "file or a folder, not a stream"
        )
    image = source.read(0)
    if finder is not None:
        return propose(VideoPredictor(finder), image, rgb=source.image_format == "RGB")
    image = image if source.image_format == "BGR" else image[..., ::-1]
    return first_masks(image, prompts, finder=ShippedFinder(args.device))
