"""Options of the official CrossVIS and AdelaiDet config files that have another name here, that
have no effect here, or of which one value alone is provided."""

from __future__ import annotations

from ..config_aliases import Alias, register_alias

_NO_BOXINST = "box supervision (BoxInst) is another system; set it to False"


def register_official_names() -> None:
    """Register the names; called at import of the package."""
    # META_ARCHITECTURE decides.
    register_alias("MODEL.CROSSVIS_ON", Alias())
    # The reach of frame pairs; 0 or less is the whole video.
    register_alias(
        "MODEL.CROSSVIS.CROSSOVER.SAMPLE_REGION",
        Alias("INPUT.SAMPLER.RANGE", convert=lambda frames: max(int(frames), 0)),
    )
    register_alias(
        "INPUT.HFLIP_TRAIN",
        Alias("INPUT.AUGMENTATIONS.FLIP_PROB", convert=lambda flip: 0.5 if flip else 0.0),
    )
    plain = "the towers are plain convolutions; set it to False"
    register_alias("MODEL.FCOS.USE_DEFORMABLE", Alias(only=(False,), why=plain))
    register_alias("MODEL.FCOS.USE_RELU", Alias(only=(True,)))
    alone = "FCOS is the whole detector here; set it to False"
    register_alias("MODEL.FCOS.YIELD_PROPOSAL", Alias(only=(False,), why=alone))
    # What a second stage would be trained on.
    for name in ("INFERENCE_TH_TRAIN", "PRE_NMS_TOPK_TRAIN", "POST_NMS_TOPK_TRAIN"):
        register_alias(f"MODEL.FCOS.{name}", Alias())
    register_alias("MODEL.FCOS.YIELD_BOX_FEATURES", Alias())  # the mask filters always read them
    register_alias("MODEL.BOXINST.ENABLED", Alias(only=(False,), why=_NO_BOXINST))
    for name in ("BOTTOM_PIXELS_REMOVED", "PAIRWISE.SIZE", "PAIRWISE.DILATION"):
        register_alias(f"MODEL.BOXINST.{name}", Alias())
    for name in ("PAIRWISE.WARMUP_ITERS", "PAIRWISE.COLOR_THRESH"):
        register_alias(f"MODEL.BOXINST.{name}", Alias())
