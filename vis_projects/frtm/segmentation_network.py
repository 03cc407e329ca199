"""The segmentation network S: coarse scores and features to a mask (FRTM, section 3.2).

Letters: N objects (one score map each), B images (N, or 1 where all objects share a frame),
H x W pixels, h_L x w_L cells of layer L. Module names are those of the official state dict.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..modeling.backbones.enlarged_convolution import (
    Enlargement,
    at_offsets,
    enlarged_conv3x3,
    enlargement,
)
from ..modeling.backbones.packed_convolution import PackedConv
from .backbone import LAYERS

WIDTH = 64
HEADS = ("bicubic_bilinear", "bicubic")


class TargetEncoder(nn.Module):
    """TSE: projects features, joins the scores, encodes both (Figure 3, right)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential(
            nn.Conv2d(channels, WIDTH, 1), nn.ReLU(inplace=True), nn.Conv2d(WIDTH, WIDTH, 1)
        )
        joint = WIDTH + 1
        self.transform = nn.Sequential(
            nn.Conv2d(joint, joint, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(joint, joint, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(joint, WIDTH, 3, padding=1),
            nn.ReLU(inplace=True),
        )
        self._reduce = [PackedConv(self.reduce[i]) for i in (0, 2)]
        first = self.transform[0]
        self._shared = PackedConv(first, inputs=slice(WIDTH))
        self._own = PackedConv(first, inputs=slice(WIDTH, None), bias=False)
        self._rest = [PackedConv(self.transform[i]) for i in (2, 4)]

    def forward(self, features: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the encoding (N, 64, h, w) and the projected features (B, 64, h, w).

        Only the score channel differs between the objects of a frame: the first convolution's
        other 64 input channels are computed once.
        """
        first, second = self._reduce
        hidden = second(first(features, relu=True))
        scores = F.interpolate(scores, hidden.shape[-2:], mode="bilinear", align_corners=False)
        shared = self._shared(hidden)
        x = self._own(scores, relu=True, add=shared.expand(scores.shape[0], -1, -1, -1))
        for conv in self._rest:
            x = conv(x, relu=True)
        return x, hidden


class ResidualBlock(nn.Module):
    """RRB: a 1x1 convolution and a residual branch of two 3x3 convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(WIDTH, WIDTH, 1)
        self.bblock = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(inplace=True),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
        )
        self._first = PackedConv(self.conv1x1)
        self._branch = PackedConv(self.bblock[0], self.bblock[1]), PackedConv(self.bblock[3])

    def forward(self, x: Tensor) -> Tensor:
        x = self._first(x)
        if self.training:
            return F.relu(x + self.bblock(x))
        if self._branch[0].takes(x):
            return self._branch[1](self._branch[0](x, relu=True), relu=True, add=x)
        conv, norm = self.bblock[0], self.bblock[1]
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        bias = norm.bias + (conv.bias - norm.running_mean) * scale
        y = F.relu_(F.conv2d(x, conv.weight * scale[:, None, None, None], bias, padding=1))
        return F.relu_(x + self.bblock[3](y))


class ChannelAttention(nn.Module):
    """CAB: gates the encoding by both levels' averages and adds the deeper level."""

    def __init__(self) -> None:
        super().__init__()
        self.convreluconv = nn.Sequential(
            nn.Conv2d(2 * WIDTH, WIDTH, 1), nn.ReLU(inplace=True), nn.Conv2d(WIDTH, WIDTH, 1)
        )

    def forward(self, deeper: Tensor, x: Tensor) -> Tensor:
        """Join ``deeper`` (N or B, 64, ., .) and ``x`` (N, 64, h, w)."""
        averages = [t.mean((2, 3), keepdim=True) for t in (x, deeper)]
        averages[1] = averages[1].expand(x.shape[0], -1, -1, -1)
        gate = torch.sigmoid(self.convreluconv(torch.cat(averages, 1)))
        if deeper.shape[-2:] != (1, 1):
            deeper = F.interpolate(deeper, x.shape[-2:], mode="bilinear", align_corners=False)
        return torch.addcmul(deeper.expand_as(x), x, gate)


class Head(nn.Module):
    """Two convolutions and two enlargements to the image size.

    Enlargements act on rows and columns by fixed matrices. The second convolution has one output
    channel and commutes with them: nothing but the result exists at full resolution.

    Args:
        mode: ``"bicubic_bilinear"`` enlarges twice by two, then bilinearly to the image;
            ``"bicubic"`` goes straight to the image in the second step. They differ only where
            the image is not a multiple of the shallowest features' stride.
        training_mode: the same in training.
    """

    def __init__(self, mode: str, training_mode: str = "bicubic_bilinear") -> None:
        super().__init__()
        for key, value in (("HEAD_RESIZE", mode), ("TRAINING.HEAD_RESIZE", training_mode)):
            if value not in HEADS:
                raise ValueError(f"MODEL.FRTM.{key} {value!r}: use {' or '.join(HEADS)}")
        self.mode, self.training_mode = mode, training_mode
        self.conv1 = nn.Conv2d(WIDTH, WIDTH // 2, 3, padding=1)
        self.conv2 = nn.Conv2d(WIDTH // 2, 1, 3, padding=1)
        self._first = PackedConv(self.conv1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Return logits (N, 1, H, W) of features (N, 64, h_2, w_2)."""
        if torch.compiler.is_compiling():  # a traced program keeps no matrices for one size
            return self.as_written(x, size)
        h, w = x.shape[-2:]
        x = self._first(double(x), relu=True)
        mode = self.training_mode if self.training else self.mode
        wide = torch.promote_types(x.dtype, torch.float32)
        rows, columns = (
            last_enlargement(2 * n, m, mode, x.device, wide) for n, m in zip((h, w), size)
        )
        x = enlarged_conv3x3(x, self.conv2.weight, rows, columns)
        return x + self.conv2.bias.to(wide).view(1, 1, 1, 1)

    def as_written(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """The definition: enlarge, convolve, enlarge, convolve."""
        twice = partial(F.interpolate, scale_factor=2.0, mode="bicubic", align_corners=False)
        x = F.relu(self.conv1(twice(x)))
        if (self.training_mode if self.training else self.mode) == "bicubic":
            x = F.interpolate(x, size, mode="bicubic", align_corners=False)
        else:
            x = F.interpolate(twice(x), size, mode="bilinear", align_corners=False)
        return self.conv2(x)


def double(x: Tensor) -> Tensor:
    """Enlarge rows and columns by two, bicubic: (N, C, h, w) -> (N, C, 2h, 2w)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    rows, columns = (doubling(n, x.device, wide) for n in x.shape[-2:])
    if not x.is_contiguous(memory_format=torch.channels_last):
        return rows.rows(columns.columns(x))
    # Channels last: both are products with a matrix from the left.
    x = columns.rows(x.permute(0, 2, 3, 1))
    return rows.rows(x.flatten(2)).unflatten(2, x.shape[2:]).permute(0, 3, 1, 2)


@lru_cache(maxsize=64)
def doubling(cells: int, device: torch.device, dtype: torch.dtype) -> Enlargement:
    """Return the resize of one axis to twice the size."""
    return Enlargement.of(bicubic(cells, 2 * cells, dtype=dtype), device)


@lru_cache(maxsize=64)
def last_enlargement(
    cells: int, pixels: int, mode: str, device: torch.device, dtype: torch.dtype
) -> Enlargement:
    """Return the head's last resize of one axis at the offsets -1, 0, 1."""
    if mode == "bicubic":
        matrix = bicubic(cells, pixels, dtype=dtype)
    else:
        matrix = bicubic(cells, 2 * cells, dtype=dtype)
        if pixels != 2 * cells:
            last = enlargement(2 * cells, pixels, mode="bilinear", align_corners=False, dtype=dtype)
            with torch.autocast("cpu", enabled=False):  # what is cached is float32
                matrix = last @ matrix
    return Enlargement.of(at_offsets(matrix), device, offsets=3)


bicubic = partial(enlargement, mode="bicubic", align_corners=False)


class SegmentationNetwork(nn.Module):
    """S(s, x): four levels from stride 32 to 4, then the head (Figure 3).

    Args:
        channels: feature channels by layer name.
        head, training_head: see ``Head``.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        *,
        head: str = "bicubic_bilinear",
        training_head: str = "bicubic_bilinear",
    ) -> None:
        super().__init__()
        self.layers = tuple(reversed(LAYERS))  # deepest first
        self.TSE = nn.ModuleDict({name: TargetEncoder(channels[name]) for name in self.layers})
        self.RRB1 = nn.ModuleDict({name: ResidualBlock() for name in self.layers})
        self.CAB = nn.ModuleDict({name: ChannelAttention() for name in self.layers})
        self.RRB2 = nn.ModuleDict({name: ResidualBlock() for name in self.layers})
        self.project = Head(head, training_head)

    def forward(
        self, scores: Tensor, features: Mapping[str, Tensor], size: tuple[int, int]
    ) -> Tensor:
        """Return logits (N, 1, H, W).

        Args:
            scores: coarse scores (N, 1, h, w).
            features: layer name -> (B, C_L, h_L, w_L) with B = N, or 1 for a frame that all
                objects share.
            size: (H, W).
        """
        deeper: Tensor | None = None
        for name in self.layers:
            encoded, hidden = self.TSE[name](features[name], scores)
            if deeper is None:
                deeper = hidden.mean((2, 3), keepdim=True)
            deeper = self.RRB2[name](self.CAB[name](deeper, self.RRB1[name](encoded)))
        return self.project(deeper, size)
