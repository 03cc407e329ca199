"""Heads between pooled boxes and the box predictor."""

from __future__ import annotations

import math
from collections.abc import Sequence

from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from fvcore.common.registry import Registry
from fvcore.nn import weight_init
from torch import nn

__all__ = ["FastRCNNConvFCHead", "ROI_BOX_HEAD_REGISTRY", "build_box_head"]

ROI_BOX_HEAD_REGISTRY = Registry("ROI_BOX_HEAD")
ROI_BOX_HEAD_REGISTRY.__doc__ = "Callables ``(cfg, ShapeSpec)`` by name, with an ``output_shape``."


@ROI_BOX_HEAD_REGISTRY.register()
class FastRCNNConvFCHead(nn.Sequential):
    """3x3 convolutions ``conv1``.. and fully connected layers ``fc1``.., each with ReLU."""

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        conv_dims: Sequence[int],
        fc_dims: Sequence[int],
        conv_norm: str = "",
    ):
        super().__init__()
        assert conv_dims or fc_dims, "the box head needs NUM_CONV or NUM_FC above 0"
        channels, height, width = input_shape.channels, input_shape.height, input_shape.width
        for k, dim in enumerate(conv_dims, start=1):
            conv = Conv2d(
                channels,
                dim,
                kernel_size=3,
                padding=1,
                bias=not conv_norm,
                norm=get_norm(conv_norm, dim),
                activation=nn.ReLU(),
            )
            weight_init.c2_msra_fill(conv)
            self.add_module(f"conv{k}", conv)
            channels = dim
        self._output_shape = ShapeSpec(channels=channels, height=height, width=width)
        features = math.prod((channels, height or 1, width or 1))
        for k, dim in enumerate(fc_dims, start=1):
            if k == 1:
                self.add_module("flatten", nn.Flatten())
            linear = nn.Linear(features, dim)
            weight_init.c2_xavier_fill(linear)
            self.add_module(f"fc{k}", linear)
            self.add_module(f"fc_relu{k}", nn.ReLU())
            features = dim
            self._output_shape = ShapeSpec(channels=dim)

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec) -> dict:
        options = cfg.MODEL.ROI_BOX_HEAD
        return {
            "input_shape": input_shape,
            "conv_dims": [options.CONV_DIM] * options.NUM_CONV,
            "fc_dims": [options.FC_DIM] * options.NUM_FC,
            "conv_norm": options.NORM,
        }

    @property
    def output_shape(self) -> ShapeSpec:
        """Shape of the output: channels only after a fully connected layer."""
        return self._output_shape


def build_box_head(cfg, input_shape: ShapeSpec) -> nn.Module:
    """Build ``cfg.MODEL.ROI_BOX_HEAD.NAME``."""
    return ROI_BOX_HEAD_REGISTRY.get(cfg.MODEL.ROI_BOX_HEAD.NAME)(cfg, input_shape)
