"""A residual network of under a million parameters that trains from scratch on a CPU.

The quickstarts use it: on small synthetic frames it learns in minutes what a ResNet-50 would need
hours for. Outputs carry the names of Detectron2's ResNet stages, so it fits under an FPN.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from fvcore.nn import weight_init
from torch import nn
from torch.nn import functional as F

CHANNELS = (24, 32, 64, 96, 128)  # stem, res2 .. res5


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; the first has the stride."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, out_channels, stride, norm, activation=F.relu)
        self.conv2 = _conv(out_channels, out_channels, 1, norm)
        self.shortcut = (
            _conv(in_channels, out_channels, stride, norm, kernel=1)
            if stride != 1 or in_channels != out_channels
            else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv2(self.conv1(x)) + self.shortcut(x))


class SmallBackbone(Backbone):
    """Two strided convolutions, then a residual block at each of the strides 8, 16 and 32.

    Args:
        channels: of the stem (stride 2), res2 (stride 4) and the blocks res3, res4, res5.
        in_channels: of the image.
        norm: "BN", "GN", "FrozenBN" or "".
        out_features: stages wanted, from "res2" to "res5".
    """

    def __init__(
        self,
        channels: Sequence[int] = CHANNELS,
        *,
        in_channels: int = 3,
        norm: str = "BN",
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
    ) -> None:
        super().__init__()
        self.stem = _conv(in_channels, channels[0], 2, norm, activation=F.relu)
        self.res2 = _conv(channels[0], channels[1], 2, norm, activation=F.relu)
        self.res3, self.res4, self.res5 = (
            ResidualBlock(a, b, stride=2, norm=norm) for a, b in pairwise(channels[1:])
        )
        names = ("res2", "res3", "res4", "res5")
        unknown = sorted(set(out_features) - set(names))
        if unknown:
            raise ValueError(f"SmallBackbone has no stage {unknown[0]!r}: use {', '.join(names)}")
        self._out_features = list(out_features)
        self._out_feature_strides = {name: 4 << i for i, name in enumerate(names)}
        self._out_feature_channels = dict(zip(names, channels[1:]))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.stem(x)
        outputs = {}
        for name in ("res2", "res3", "res4", "res5"):
            x = getattr(self, name)(x)
            if name in self._out_features:
                outputs[name] = x
        return outputs


@BACKBONE_REGISTRY.register()
def build_small_backbone(cfg, input_shape: ShapeSpec) -> SmallBackbone:
    """``MODEL.RESNETS.OUT_FEATURES`` of a SmallBackbone with ``MODEL.RESNETS.NORM``."""
    return SmallBackbone(
        in_channels=input_shape.channels,
        norm=cfg.MODEL.RESNETS.NORM,
        out_features=cfg.MODEL.RESNETS.OUT_FEATURES,
    )


@BACKBONE_REGISTRY.register()
def build_small_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """An FPN over the SmallBackbone, one level for each of ``MODEL.FPN.IN_FEATURES``, no more."""
    return FPN(
        bottom_up=build_small_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=None,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def _conv(
    in_channels: int,
    out_channels: int,
    stride: int,
    norm: str,
    *,
    kernel: int = 3,
    activation=None,
) -> Conv2d:
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel,
        stride=stride,
        padding=kernel // 2,
        bias=norm == "",
        norm=get_norm(norm, out_channels),
        activation=activation,
    )
    weight_init.c2_msra_fill(conv)
    return conv
