"""A residual network small enough to be trained from scratch on a CPU within minutes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.layers import get_norm
from detectron2.modeling import Backbone
from torch import nn
from torch.nn import functional as F


def _conv(in_channels: int, out_channels: int, stride: int, norm: str) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    groups = nn.GroupNorm(8, out_channels) if norm == "GN" else get_norm(norm, out_channels)
    return nn.Sequential(conv, groups)


class _Block(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, out_channels, stride, norm)
        self.conv2 = _conv(out_channels, out_channels, 1, norm)
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class TinyResNet(Backbone):
    """Two strided convolutions and one residual block per stage (chosen; nothing is frozen).

    Args:
        in_channels: of the images.
        widths: channels of the stem (stride 2) and of res2 to res5 (strides 4 to 32).
        norm: "BN" or "GN" (groups of 8 channel groups).
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        widths: Sequence[int] = (24, 32, 64, 96, 128),
        norm: str = "BN",
    ) -> None:
        super().__init__()
        stem, second, *deep = widths
        self.stem = nn.Sequential(_conv(in_channels, stem, 2, norm), nn.ReLU())
        self.res2 = nn.Sequential(_conv(stem, second, 2, norm), nn.ReLU())
        self._out_features = ["res2"]
        for i, (before, width) in enumerate(zip([second, *deep], deep), 3):
            self.add_module(f"res{i}", _Block(before, width, 2, norm))
            self._out_features.append(f"res{i}")
        self._out_feature_channels = dict(zip(self._out_features, widths[1:]))
        self._out_feature_strides = {f: 4 << i for i, f in enumerate(self._out_features)}

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.stem(x)
        out = {}
        for name in self._out_features:
            out[name] = x = getattr(self, name)(x)
        return out
