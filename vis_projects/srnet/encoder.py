"""The encoder (SRNet, section 3.1): a backbone and an FPN of exactly p2 .. p5."""

from __future__ import annotations

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, build_resnet_backbone

LEVELS = ("p2", "p3", "p4", "p5")


@BACKBONE_REGISTRY.register()
def build_srnet_resnet_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """Detectron2's ResNet and FPN without p6, which nothing here reads."""
    return FPN(
        bottom_up=build_resnet_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=None,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def coarsest_level(fpn: FPN, images: torch.Tensor) -> torch.Tensor:
    """Return p5 alone: all that is needed of frame t - 1, without the finer levels' cost."""
    features = fpn.bottom_up(images)["res5"]
    return fpn.fpn_output5(fpn.fpn_lateral5(features))
