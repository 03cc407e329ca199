"""Stage 1 of MSN: the detector of single frames."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN

from ..data.class_check import with_counted_classes
from ..modeling import Preprocess, shortest_edge
from ..structures import Frame, InputError
from ..weights.card import remember_class_names
from ..weights.own_weights import see_to_weights
from ..weights.verdict import watch_loading

_ROI_HEADS = {"official": "OfficialCascadeROIHeads", "detectron2": "CascadeROIHeads"}
# MODEL.MSN.DATA_STAGES: the training sets of each step, with their class maps (Table 3).
_COCO = ("coco_2017_train", "msn/coco/ytvis_2021")
_OPENIMAGES = ("openimages_stills_train", "msn/openimages/ytvis_2021")
_YTVIS = ("ytvis_2021_train", "")
DATA_STAGES = {
    "coco_pretrain_vis_finetune": ((_COCO,), (_YTVIS,)),
    "coco_vis_joint": ((_COCO, _YTVIS),),
    "coco_vis_openimages_joint": ((_COCO, _YTVIS, _OPENIMAGES),),
}


@META_ARCH_REGISTRY.register()
class MSNDetector(GeneralizedRCNN):
    """Cascade Mask R-CNN, by default on Swin (MSN, Section 3.1, stage 1).

    It trains on stills and on single frames of videos; at test an image that has the size wanted of
    the result is resized as ``INPUT.MIN_SIZE_TEST`` says, any other is taken as it is (Detectron2's
    ``DefaultPredictor`` has resized it). Its state dict has Detectron2's names.

    Args:
        resize: how images reach the network's size at test.
        needs_weights: see ``VideoModel``.
    """

    trainable = True
    classes_key = "MODEL.ROI_HEADS.NUM_CLASSES"

    @configurable
    def __init__(self, *, resize: Preprocess, needs_weights: bool = False, **parts: Any) -> None:
        super().__init__(**parts)
        self.resize = resize
        self.needs_weights = needs_weights
        watch_loading(self)

    @property
    def num_classes(self) -> int:
        """Classes that the box heads tell apart."""
        return self.roi_heads.num_classes

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        check_data_stages(cfg)
        remember_class_names(cfg)
        cfg = with_counted_classes(cfg, cls.classes_key)
        return {
            **super().from_config(with_cascade_style(cfg)),
            "needs_weights": not cfg.MODEL.ALLOW_MISSING_WEIGHTS,
            "resize": Preprocess(
                [0.0] * 3,
                [1.0] * 3,
                size_rule=shortest_edge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST),
                frame_format=cfg.INPUT.FORMAT,
                on_device=cfg.MODEL.RESIZE_ON_DEVICE,
            ),
        }

    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> Any:
        """Training: the losses. Otherwise ``[{"instances": Instances}]`` in the size asked for."""
        see_to_weights(self)
        if self.training:
            return super().forward(batched_inputs)
        return self.inference([self._resized(item) for item in batched_inputs])

    def _resized(self, item: dict[str, Any]) -> dict[str, Any]:
        height, width = item["image"].shape[-2:]
        wanted = (item.get("height", height), item.get("width", width))
        if wanted != (height, width):
            return item
        image = self.resize.resize(Frame(item["image"]))
        return {**item, "image": image, "height": height, "width": width}


def with_cascade_style(cfg: CfgNode) -> CfgNode:
    """Return a config whose RoI heads are those of ``MODEL.MSN.CASCADE_STYLE``.

    Raises:
        InputError: an unknown style.
    """
    style = cfg.MODEL.MSN.CASCADE_STYLE
    if style not in ("", *_ROI_HEADS):
        raise InputError(
            f"MODEL.MSN.CASCADE_STYLE {style!r} is unknown: use official, detectron2 or '' for "
            "MODEL.ROI_HEADS.NAME as it stands"
        )
    if not style:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_HEADS.NAME = _ROI_HEADS[style]
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = style == "detectron2"
    return cfg


def check_data_stages(cfg: CfgNode) -> None:
    """Compare ``DATASETS.TRAIN`` with what ``MODEL.MSN.DATA_STAGES`` says; "" checks nothing.

    Raises:
        InputError: an unknown name, or other data sets and class maps than it stands for.
    """
    name = cfg.MODEL.MSN.DATA_STAGES
    if not name:
        return
    if name not in DATA_STAGES:
        raise InputError(
            f"MODEL.MSN.DATA_STAGES {name!r} is unknown: use {', '.join(DATA_STAGES)} or ''"
        )
    # A part of a set counts as the set: a fold, or what prepare.py split leaves for training.
    sets = [re.sub(r"_local_(fold\d+|train)$", "_train", name) for name in cfg.DATASETS.TRAIN]
    maps = list(cfg.DATASETS.CLASS_MAPS) or [""] * len(sets)
    if tuple(zip(sets, maps)) not in DATA_STAGES[name]:
        steps = " then ".join(" + ".join(s for s, _ in step) for step in DATA_STAGES[name])
        raise InputError(
            f"MODEL.MSN.DATA_STAGES {name} trains on {steps}, each with its class map, but "
            f"DATASETS.TRAIN is {', '.join(sets) or 'empty'}: set MODEL.MSN.DATA_STAGES '' for "
            "data of your own"
        )
