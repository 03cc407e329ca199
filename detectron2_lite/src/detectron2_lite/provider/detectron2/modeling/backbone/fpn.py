"""Feature Pyramid Network (Lin et al. 2017)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from detectron2.layers import Conv2d, ShapeSpec, get_norm
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F

from .backbone import Backbone
from .build import BACKBONE_REGISTRY
from .resnet import build_resnet_backbone

__all__ = [
    "FPN",
    "LastLevelMaxPool",
    "LastLevelP6P7",
    "build_resnet_fpn_backbone",
    "build_retinanet_resnet_fpn_backbone",
]


class FPN(Backbone):
    """Lateral and output convolutions over ``bottom_up``; outputs ``p2``, ``p3``, ..."""

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        norm: str = "",
        top_block: nn.Module | None = None,
        fuse_type: str = "sum",
        square_pad: int = 0,
    ):
        """``in_features``: high to low resolution, strides doubling.

        ``top_block``: module with ``num_levels`` and ``in_feature`` that appends coarser maps.
        ``fuse_type``: ``sum`` or ``avg``. ``square_pad``: side of square input padding, 0 for none.
        """
        super().__init__()
        assert in_features, "FPN needs at least one input feature (MODEL.FPN.IN_FEATURES)"
        assert fuse_type in ("sum", "avg"), f"fuse_type must be sum or avg, not {fuse_type!r}"
        shapes = bottom_up.output_shape()
        strides = [shapes[name].stride for name in in_features]
        for fine, coarse in itertools.pairwise(strides):
            assert coarse == 2 * fine, f"FPN strides must double: {strides}"
        self.bottom_up = bottom_up
        self.in_features = tuple(in_features)
        self._levels = [int(math.log2(stride)) for stride in strides]
        for name, level in zip(in_features, self._levels):
            lateral = Conv2d(
                shapes[name].channels,
                out_channels,
                kernel_size=1,
                bias=norm == "",
                norm=get_norm(norm, out_channels),
            )
            output = Conv2d(
                out_channels,
                out_channels,
                kernel_size=3,
                padding=1,
                bias=norm == "",
                norm=get_norm(norm, out_channels),
            )
            weight_init.c2_xavier_fill(lateral)
            weight_init.c2_xavier_fill(output)
            self.add_module(f"fpn_lateral{level}", lateral)
            self.add_module(f"fpn_output{level}", output)
        self.top_block = top_block
        self._out_feature_strides = {f"p{k}": 2**k for k in self._levels}
        for extra in range(0 if top_block is None else top_block.num_levels):
            level = self._levels[-1] + 1 + extra
            self._out_feature_strides[f"p{level}"] = 2**level
        self._out_features = list(self._out_feature_strides)
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)
        self._size_divisibility = strides[-1]
        self._square_pad = square_pad
        self._fuse_type = fuse_type

    @property
    def size_divisibility(self) -> int:
        return self._size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"square_size": self._square_pad}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map images (N, C, H, W) to the pyramid, finest level first."""
        bottom_up = self.bottom_up(x)
        merged, maps = None, []
        for name, level in zip(self.in_features[::-1], self._levels[::-1]):
            lateral = getattr(self, f"fpn_lateral{level}")(bottom_up[name])
            if merged is None:
                merged = lateral
            else:
                merged = lateral + F.interpolate(merged, scale_factor=2.0, mode="nearest")
                if self._fuse_type == "avg":
                    merged = merged / 2
            maps.append(getattr(self, f"fpn_output{level}")(merged))
        outputs = {f"p{level}": x for level, x in zip(self._levels, maps[::-1])}
        if self.top_block is not None:
            name = self.top_block.in_feature
            source = bottom_up[name] if name in bottom_up else outputs[name]
            for extra, feature in enumerate(self.top_block(source)):
                outputs[f"p{self._levels[-1] + 1 + extra}"] = feature
        return outputs


class LastLevelMaxPool(nn.Module):
    """``p6``: every second pixel of ``p5``."""

    def __init__(self):
        super().__init__()
        self.num_levels = 1
        self.in_feature = "p5"

    def forward(self, x: Tensor) -> list[Tensor]:
        return [F.max_pool2d(x, kernel_size=1, stride=2, padding=0)]


class LastLevelP6P7(nn.Module):
    """``p6`` and ``p7`` by two 3x3 convolutions of stride 2 (RetinaNet)."""

    def __init__(self, in_channels: int, out_channels: int, in_feature: str = "res5"):
        super().__init__()
        self.num_levels = 2
        self.in_feature = in_feature
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, 2, 1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, 2, 1)
        for module in (self.p6, self.p7):
            weight_init.c2_xavier_fill(module)

    def forward(self, x: Tensor) -> list[Tensor]:
        p6 = self.p6(x)
        return [p6, self.p7(F.relu(p6))]


def _build_fpn(cfg, bottom_up: Backbone, top_block: nn.Module) -> FPN:
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


@BACKBONE_REGISTRY.register()
def build_resnet_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """ResNet with FPN and a max-pooled last level."""
    return _build_fpn(cfg, build_resnet_backbone(cfg, input_shape), LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_resnet_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """ResNet with FPN and the levels p6 and p7 computed from res5."""
    bottom_up = build_resnet_backbone(cfg, input_shape)
    channels = bottom_up.output_shape()["res5"].channels
    top_block = LastLevelP6P7(channels, cfg.MODEL.FPN.OUT_CHANNELS)
    return _build_fpn(cfg, bottom_up, top_block)
