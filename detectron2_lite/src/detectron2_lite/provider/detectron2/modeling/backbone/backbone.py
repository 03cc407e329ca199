"""The interface of every backbone."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod

from detectron2.layers import ShapeSpec
from torch import Tensor, nn


class Backbone(nn.Module, metaclass=ABCMeta):
    """A network from an image batch (N, C, H, W) to named feature maps.

    A subclass fills ``_out_features``, ``_out_feature_channels`` and ``_out_feature_strides``, or
    overrides ``output_shape``.
    """

    @abstractmethod
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the feature maps by name."""

    @property
    def size_divisibility(self) -> int:
        """The multiple that input height and width must have; 0 means any size."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Further demands on padding, as ``ImageList.from_tensors`` takes them."""
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each output."""
        return {
            name: ShapeSpec(
                channels=self._out_feature_channels[name],
                stride=self._out_feature_strides[name],
            )
            for name in self._out_features
        }
