"""A convolution with its norm folded in and the activation behind it as one operator (CPU, test).

Letters: B images of C channels, H x W pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .packed_convolution import PackedConv


class FoldedConv(nn.Module):
    """A convolution and, if there is one, a ReLU or ReLU6 behind it.

    Padding of TensorFlow's kind, one more below and to the right than above and to the left, is
    made symmetric by a leading row or column of zeros in the kernel: no padded copy of the input.

    Args:
        conv: any convolution; timm's ``Conv2dSame`` pads itself.
        activation: ``nn.ReLU``, ``nn.ReLU6`` or None.
    """

    def __init__(self, conv: nn.Conv2d, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = conv
        self.limit = activation is not None and (6.0 if isinstance(activation, nn.ReLU6) else True)
        self.same = type(conv).__name__ == "Conv2dSame"
        self._placed: dict[tuple[int, ...], PackedConv] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C', H', W') of x (B, C, H, W)."""
        known = not (torch.compiler.is_compiling() or torch.jit.is_tracing())
        packed = self._for_size(x.shape[-2:]) if known else None
        if packed is not None:
            return packed(x, relu=self.limit)
        y = type(self.conv).forward(self.conv, x)
        return y if self.limit is False else F.relu(y) if self.limit is True else y.clamp(0, 6)

    def _for_size(self, size: tuple[int, int]) -> PackedConv | None:
        """Return the convolution with symmetric padding; None where there is none."""
        conv = self.conv
        places = [self._place(axis, n) for axis, n in enumerate(size)] if self.same else []
        if None in places:
            return None
        key = tuple(n for place in places for n in place)
        if key not in self._placed:
            self._placed[key] = PackedConv(_moved(conv, *places) if places else conv)
        return self._placed[key]

    def _place(self, axis: int, pixels: int) -> tuple[int, int] | None:
        """Return (zeros before the kernel, padding on both sides) of one axis."""
        kernel, stride, dilation = (
            getattr(self.conv, name)[axis] for name in ("kernel_size", "stride", "dilation")
        )
        wanted = (math.ceil(pixels / stride) - 1) * stride + (kernel - 1) * dilation + 1 - pixels
        extra = max(wanted, 0) % 2
        if wanted < 0 or (extra and dilation > 1):
            return None
        return extra, (wanted + extra) // 2


def _moved(conv: nn.Conv2d, rows: tuple[int, int], columns: tuple[int, int]) -> nn.Conv2d:
    """Return the convolution with zeros before its kernel and symmetric padding."""
    weight = F.pad(conv.weight.detach(), (columns[0], 0, rows[0], 0))
    moved = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        tuple(weight.shape[-2:]),
        conv.stride,
        (rows[1], columns[1]),
        conv.dilation,
        conv.groups,
        bias=False,
        device="meta",
    )
    moved.weight = nn.Parameter(weight, requires_grad=False)
    moved.bias = conv.bias
    return moved.eval()
