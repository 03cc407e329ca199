"""Feature pyramids as FCOS wants them: P3 to P5 from the backbone, P6 and P7 from P5."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone, build_resnet_backbone
from fvcore.nn import weight_init
from torch import nn
from torch.nn import functional as F

from ..modeling.backbones.small_backbone import build_small_backbone
from ..modeling.backbones.timm_backbone import build_timm_backbone
from ..structures import InputError


class TopLevels(nn.Module):
    """P6 = 3x3 convolution of stride 2 of P5, P7 the same of ReLU(P6).

    Args:
        channels: of the pyramid.
        in_feature: the pyramid's coarsest level.
        num_levels: 1 or 2.
    """

    def __init__(self, channels: int, in_feature: str, num_levels: int) -> None:
        super().__init__()
        self.in_feature = in_feature
        self.num_levels = num_levels
        first = int(in_feature[1:]) + 1
        self.names = [f"p{first + i}" for i in range(num_levels)]
        for name in self.names:
            conv = nn.Conv2d(channels, channels, 3, 2, 1)
            weight_init.c2_xavier_fill(conv)
            self.add_module(name, conv)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        out = []
        for name in self.names:
            x = getattr(self, name)(F.relu(x) if out else x)
            out.append(x)
        return out


def build_fcos_fpn(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    """Build the pyramid with ``MODEL.FCOS.TOP_LEVELS`` levels on top."""
    shapes = bottom_up.output_shape()
    missing = [name for name in cfg.MODEL.FPN.IN_FEATURES if name not in shapes]
    if missing:
        raise InputError(
            f"MODEL.FPN.IN_FEATURES names {missing[0]!r}; the backbone gives {', '.join(shapes)}"
        )
    channels, levels = cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FCOS.TOP_LEVELS
    coarsest = shapes[cfg.MODEL.FPN.IN_FEATURES[-1]].stride
    name = f"p{coarsest.bit_length() - 1}"
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=channels,
        norm=cfg.MODEL.FPN.NORM,
        top_block=TopLevels(channels, name, levels) if levels else None,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


@BACKBONE_REGISTRY.register()
def build_fcos_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Detectron2's ResNet and the pyramid."""
    return build_fcos_fpn(cfg, build_resnet_backbone(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_fcos_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """The network of timm that ``MODEL.TIMM`` names, DLA-34 by default, and the pyramid."""
    return build_fcos_fpn(cfg, build_timm_backbone(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_fcos_small_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """The small network of the quickstarts and the pyramid."""
    return build_fcos_fpn(cfg, build_small_backbone(cfg, input_shape))
