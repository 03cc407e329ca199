"""Features of a frame: the pyramid, and the backbone stages under it that the decoder adds."""

from __future__ import annotations

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone

from ..structures import InputError


def pyramid_with_stages(backbone: Backbone, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the outputs of an FPN and of its ``bottom_up`` network, computed once.

    Detectron2's FPN keeps the stages to itself, hence the hook.
    """
    stages: dict[str, torch.Tensor] = {}
    handle = backbone.bottom_up.register_forward_hook(lambda _m, _x, out: stages.update(out))
    try:
        pyramid = backbone(images)
    finally:
        handle.remove()
    return {**stages, **pyramid}


def shapes_with_stages(backbone: Backbone) -> dict[str, ShapeSpec]:
    """Return the shapes of what ``pyramid_with_stages`` returns.

    Raises:
        InputError: the backbone has no pyramid.
    """
    if not hasattr(backbone, "bottom_up"):
        raise InputError(
            f"MODEL.BACKBONE.NAME gives a {type(backbone).__name__} without a pyramid: "
            "SeqMaskRCNN needs an FPN, such as build_resnet_fpn_backbone"
        )
    return {**backbone.bottom_up.output_shape(), **backbone.output_shape()}
