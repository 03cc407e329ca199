"""Detectron2's own input options: mapped to ours where they mean the same, else refused.

An option that is accepted and does nothing trains something else than its user thinks.
"""

from __future__ import annotations

from detectron2.config import CfgNode

from ..structures import InputError

_SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler")
# Options of Detectron2's loaders that must keep their defaults: what to do instead.
_REFUSED = {
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": (True, "frames without objects are never key frames"),
    "MODEL.LOAD_PROPOSALS": (False, "no system takes proposals from files"),
    "MODEL.KEYPOINT_ON": (False, "no system learns key points"),
    "TEST.PRECISE_BN.ENABLED": (False, "use MODEL.FPN.NORM GN or frozen batch norm"),
}


def with_detectron2_options(cfg: CfgNode) -> CfgNode:
    """Return the config of a training with Detectron2's input options taken into ours.

    ``INPUT.RANDOM_FLIP none`` is ``AUGMENTATIONS.FLIP_PROB 0``; ``DATALOADER.SAMPLER_TRAIN
    RepeatFactorTrainingSampler`` with ``REPEAT_THRESHOLD`` is ``SAMPLER.BALANCE repeat_factor``.

    Raises:
        InputError: an option that has no counterpart.
    """
    cfg = cfg.clone()
    cfg.defrost()
    flip = cfg.INPUT.RANDOM_FLIP
    if flip == "none":
        cfg.INPUT.AUGMENTATIONS.FLIP_PROB = 0.0
    elif flip != "horizontal":
        raise InputError(
            f"INPUT.RANDOM_FLIP {flip!r}: clips are mirrored left to right only; use horizontal "
            "(with INPUT.AUGMENTATIONS.FLIP_PROB) or none"
        )
    if cfg.INPUT.CROP.ENABLED:
        raise InputError(
            "INPUT.CROP.ENABLED: clips are cropped after resizing, with one window for all frames; "
            "use INPUT.AUGMENTATIONS.CROP.SIZE (height, width)"
        )
    if cfg.INPUT.MASK_FORMAT not in ("polygon", "bitmask"):
        raise InputError(f"INPUT.MASK_FORMAT {cfg.INPUT.MASK_FORMAT!r}: polygon or bitmask")
    _take_sampler(cfg)
    for key, (default, instead) in _REFUSED.items():
        value = _value(cfg, key)
        if value is not None and value != default:
            raise InputError(f"{key} {value} is not supported: {instead}")
    return cfg


def _take_sampler(cfg: CfgNode) -> None:
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name not in _SAMPLERS:
        raise InputError(
            f"DATALOADER.SAMPLER_TRAIN {name!r} is not supported: use {' or '.join(_SAMPLERS)}, or "
            "INPUT.SAMPLER.BALANCE and DATASETS.WEIGHTS"
        )
    options = cfg.INPUT.SAMPLER
    if name == "RepeatFactorTrainingSampler" and options.BALANCE == "uniform":
        if cfg.DATALOADER.REPEAT_THRESHOLD <= 0:
            raise InputError(
                "DATALOADER.SAMPLER_TRAIN RepeatFactorTrainingSampler needs a REPEAT_THRESHOLD "
                "above 0"
            )
        options.BALANCE = "repeat_factor"
        options.BALANCE_THRESHOLD = float(cfg.DATALOADER.REPEAT_THRESHOLD)
        options.BALANCE_POWER = 0.5


def check_test_options(cfg: CfgNode) -> None:
    """Refuse what Detectron2 would do at test and no system here does.

    Raises:
        InputError: such an option is on.
    """
    if cfg.TEST.AUG.ENABLED:
        raise InputError(
            "TEST.AUG.ENABLED: videos are segmented once; CFBI has MODEL.CFBI.SCALES, other "
            "systems INPUT.MIN_SIZE_TEST"
        )


def _value(cfg: CfgNode, key: str) -> object:
    for part in key.split("."):
        cfg = cfg.get(part)
        if cfg is None:
            return None
    return cfg
