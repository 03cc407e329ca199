"""The decoder (SRNet, section 3.1): four blocks up to stride 4, the first over two frames.

Letters: B frames, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.layers import get_norm
from fvcore.nn import weight_init
from torch import nn
from torch.nn import functional as F

from .encoder import LEVELS


class TwoFrameConv(nn.Module):
    """A (2, 3, 3) convolution over the frames t - 1 and t, run as a 2D one over their channels.

    The state dict holds the 3D form (out, C, 2, 3, 3), time index 0 the previous frame. The
    parameter itself is the equal 2D form (out, 2C, 3, 3), previous frame first: faster, and fit
    for ``channels_last``, which a 5-D parameter is not.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, 2 * in_channels, 3, 3))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self._register_state_dict_hook(_to_three_dimensions)
        self._register_load_state_dict_pre_hook(_to_two_dimensions)

    def forward(self, previous: torch.Tensor, current: torch.Tensor) -> torch.Tensor:
        return F.conv2d(torch.cat([previous, current], 1), self.weight, padding=1)


def _to_three_dimensions(module: nn.Module, state: dict, prefix: str, *_: Any) -> None:
    weight = state.get(prefix + "weight")
    if weight is None or isinstance(weight, nn.Parameter):
        return  # the live parameters are asked for (keep_vars): tracing does so
    out, twice, kh, kw = weight.shape
    state[prefix + "weight"] = weight.view(out, 2, twice // 2, kh, kw).transpose(1, 2)


def _to_two_dimensions(state: dict, prefix: str, *_: Any) -> None:
    weight = state.get(prefix + "weight")
    if weight is not None and weight.ndim == 5:
        state[prefix + "weight"] = weight.transpose(1, 2).flatten(1, 2)


class DecoderBlock(nn.Module):
    """Convolution without bias, group normalisation, ReLU.

    Args:
        conv: gives ``channels`` channels.
        groups: of the normalisation.
    """

    def __init__(self, conv: nn.Module, channels: int, groups: int) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.GroupNorm(groups, channels)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.conv(*inputs)))


class Decoder(nn.Module):
    """From p5 of two frames and p4, p3, p2 of the current one to X at stride 4.

    Args:
        in_channels: of every pyramid level.
        channels: of the four blocks; the last is that of X.
        groups: of the group normalisation (STEm-Seg: 32).
        level_norm: normalises every pyramid level on entry, one layer for each ("GN"); "": none.
            The blocks' own outputs are normalised: beside un-normalised levels, which are several
            times as loud, what comes up from stride 32, and so all of frame t - 1, fades.
    """

    def __init__(
        self,
        in_channels: int = 256,
        channels: Sequence[int] = (256, 256, 128, 128),
        *,
        groups: int = 32,
        level_norm: str = "",
    ) -> None:
        super().__init__()
        first, *others = channels
        self.level_norms = nn.ModuleDict(
            {level: get_norm(level_norm, in_channels) for level in LEVELS} if level_norm else {}
        )
        self.block1 = DecoderBlock(TwoFrameConv(in_channels, first), first, groups)
        for k, (below, out) in enumerate(zip(channels, others), 2):
            conv = nn.Conv2d(below + in_channels, out, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            self.add_module(f"block{k}", DecoderBlock(conv, out, groups))

    def forward(self, features: dict[str, torch.Tensor], previous: torch.Tensor) -> torch.Tensor:
        """Return X (B, C4, h, w).

        Args:
            features: ``p2`` .. ``p5`` of frame t.
            previous: p5 of frame t - 1; the first frame of a video passes its own.
        """
        for level, norm in self.level_norms.items():
            features = {**features, level: norm(features[level])}
        if self.level_norms:
            previous = self.level_norms["p5"](previous)
        x = self.block1(previous, features["p5"])
        for block, level in zip((self.block2, self.block3, self.block4), ("p4", "p3", "p2")):
            skip = features[level]
            up = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = block(torch.cat([up, skip], 1))
        return x


class Head(nn.Module):
    """3x3 convolution, ReLU, 1x1 convolution; evaluated on the whole map or at some cells.

    Args:
        bias: start value of the last bias.
    """

    def __init__(
        self, in_channels: int, hidden: int, out_channels: int, *, bias: float = 0.0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, hidden, 3, padding=1)
        self.out = nn.Conv2d(hidden, out_channels, 1)
        weight_init.c2_msra_fill(self.conv)
        nn.init.normal_(self.out.weight, std=0.001)
        nn.init.constant_(self.out.bias, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(F.relu(self.conv(x)))

    def at(self, padded: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """Evaluate at single cells.

        Args:
            padded: the input (C, h + 2, w + 2) with a border of one zero cell all round.
            cells: int64 (M,), row-major indices into the h x w map.

        Returns:
            (M, out), equal to ``forward`` at these cells up to rounding.
        """
        c, _, width = padded.shape
        w = width - 2
        corner = cells.div(w, rounding_mode="floor") * width + cells % w
        steps = torch.arange(3, device=cells.device)
        window = (steps[:, None] * width + steps).flatten()
        patches = padded.reshape(c, -1)[:, corner[:, None] + window]  # (C, M, 9)
        patches = patches.transpose(0, 1).reshape(len(cells), c * 9)
        hidden = F.relu(F.linear(patches, self.conv.weight.flatten(1), self.conv.bias))
        return F.linear(hidden, self.out.weight.flatten(1), self.out.bias)


class Heads(nn.Module):
    """The five heads on X (SRNet, section 4.1).

    Args:
        in_channels: of X.
        hidden: width between the two convolutions.
        extra_dims: free dimensions of the offset.
        num_classes: C of the category head; 0 leaves it out (UVOS).
        heat_map_gain: factor of the tracking head's start values for the heat map.
    """

    def __init__(
        self,
        in_channels: int,
        hidden: int = 64,
        *,
        extra_dims: int = 2,
        num_classes: int = 0,
        heat_map_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.offset = Head(in_channels, hidden, 2 + extra_dims)
        self.bandwidth = Head(in_channels, hidden, 2)
        self.tracking = Head(in_channels + 1, hidden, 2)
        with torch.no_grad():
            self.tracking.conv.weight[:, -1] *= heat_map_gain
        self.objectness = Head(in_channels, hidden, 1, bias=-2.1972246)  # sigmoid: 0.1
        self.category = Head(in_channels, hidden, num_classes) if num_classes else None

    def forward(
        self, x: torch.Tensor, heat_map: torch.Tensor | None = None, *, lazy: bool = False
    ) -> dict[str, torch.Tensor]:
        """Return the raw head outputs (B, channels, h, w).

        Args:
            x: X. heat_map: H(t-1) (B, 1, h, w); None: zeros.
            lazy: leave out ``bandwidth`` and ``tracking``, which inference needs at few cells.
        """
        out = {"offset": self.offset(x), "objectness": self.objectness(x)}
        if self.category is not None:
            out["category"] = self.category(x)
        if not lazy:
            out["bandwidth"] = self.bandwidth(x)
            out["tracking"] = self.track(x, heat_map)
        return out

    def track(self, x: torch.Tensor, heat_map: torch.Tensor | None) -> torch.Tensor:
        """Return the raw tracking vectors (B, 2, h, w)."""
        if heat_map is None:
            heat_map = x.new_zeros((x.shape[0], 1, *x.shape[-2:]))
        return self.tracking(torch.cat([x, heat_map.to(x.dtype)], 1))
