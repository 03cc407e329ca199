"""Swin Transformer (Liu et al. 2021) as a detection backbone, with the official key names.

Letters: N images, h x w tokens of a stage, C channels, M window side, A heads. Numerically equal to
the official detection backbone at every size: tokens are padded to whole windows before the shift,
odd maps are padded before merging, and the shift stays where a map is a single window.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn
from torch.nn import functional as F
from torchvision.ops import stochastic_depth

from ...config import register_config
from ...structures import InputError

# name: (embedding, depths, heads)
SIZES = {
    "T": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "S": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "B": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "L": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}


@register_config("swin")
def add_swin_config(cfg: CfgNode) -> None:
    """Add MODEL.SWIN, read by ``build_swin_backbone`` and ``build_swin_fpn_backbone``."""
    swin = cfg.MODEL.SWIN = CfgNode()
    # T, S, B or L of the Swin paper; "" takes the three keys below.
    swin.SIZE = "B"
    swin.EMBED_DIM = 96
    swin.DEPTHS = (2, 2, 6, 2)
    swin.HEADS = (3, 6, 12, 24)
    # Window side in tokens (official Swin-B and -L of 384 pixels: 12).
    swin.WINDOW = 7
    # Stochastic depth of the last block, growing linearly from 0 (official Swin-B detector: 0.3).
    swin.DROP_PATH = 0.3
    # Outputs p0..p3 at strides 4, 8, 16, 32.
    swin.OUT_FEATURES = ("p0", "p1", "p2", "p3")


class WindowAttention(nn.Module):
    """Self-attention within windows of M x M tokens, with a bias per relative position."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        side = 2 * window - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(side * side, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", _relative_index(window), persistent=False)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Attend within windows x (N * W, M * M, C); ``mask`` (W, M * M, M * M) is added."""
        batch, tokens, channels = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        index = self.relative_position_index.flatten()
        bias = self.relative_position_bias_table[index].view(tokens, tokens, self.heads)
        bias = bias.permute(2, 0, 1)[None]
        if mask is not None:
            bias = (bias + mask[:, None]).repeat(batch // len(mask), 1, 1, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, channels))


def _relative_index(window: int) -> torch.Tensor:
    """Row of the bias table for each pair of the M * M tokens of a window."""
    axis = torch.arange(window)
    rows, columns = (axes.flatten() for axes in torch.meshgrid(axis, axis, indexing="ij"))
    down = rows[:, None] - rows[None] + window - 1
    right = columns[:, None] - columns[None] + window - 1
    return down * (2 * window - 1) + right


class MLP(nn.Module):
    """Two linear layers with GELU."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Window attention, shifted by ``shift`` tokens, and an MLP; both residual."""

    def __init__(
        self, channels: int, heads: int, *, window: int, shift: int, drop_path: float
    ) -> None:
        super().__init__()
        self.window, self.shift, self.drop_path = window, shift, drop_path
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, window)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = MLP(channels, 4 * channels)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Map tokens x (N, h, w, C); ``mask`` keeps shifted windows from mixing far sides."""
        x = x + self._drop(self._attend(self.norm1(x), mask))
        return x + self._drop(self.mlp(self.norm2(x)))

    def _attend(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        n, h, w, c = x.shape
        m, s = self.window, self.shift
        x = F.pad(x, (0, 0, 0, -w % m, 0, -h % m))
        rows, columns = x.shape[1] // m, x.shape[2] // m
        if s:
            x = x.roll((-s, -s), (1, 2))
        windows = x.view(n, rows, m, columns, m, c).transpose(2, 3).reshape(-1, m * m, c)
        out = self.attn(windows, mask if s else None)
        x = out.view(n, rows, columns, m, m, c).transpose(2, 3).reshape(x.shape)
        if s:
            x = x.roll((s, s), (1, 2))
        return x[:, :h, :w]

    def _drop(self, x: torch.Tensor) -> torch.Tensor:
        return stochastic_depth(x, self.drop_path, "row", self.training)


class PatchMerging(nn.Module):
    """Join 2 x 2 tokens and halve their channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(4 * channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, h, w, C) to (N, ceil(h / 2), ceil(w / 2), 2 C)."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        corners = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, -1)))


class PatchEmbed(nn.Module):
    """Patches of 4 x 4 pixels to normalised tokens."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, 4, 4)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class SwinStage(nn.Module):
    """The blocks of one resolution, every second one shifted, and the merging after them."""

    def __init__(
        self, channels: int, heads: int, *, window: int, drop_path: Sequence[float], merge: bool
    ) -> None:
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList(
            SwinBlock(
                channels, heads, window=window, shift=window // 2 if i % 2 else 0, drop_path=rate
            )
            for i, rate in enumerate(drop_path)
        )
        self.downsample = PatchMerging(channels) if merge else None

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the stage's tokens and those that go into the next stage."""
        mask = shift_mask(x.shape[1], x.shape[2], self.window, x.device)
        for block in self.blocks:
            x = block(x, mask)
        return x, x if self.downsample is None else self.downsample(x)


def shift_mask(height: int, width: int, window: int, device: torch.device) -> torch.Tensor:
    """-100 between tokens of a shifted window that come from opposite sides of the map, else 0.

    Returns (W, M * M, M * M) for the W windows of the padded map.
    """
    shift = window // 2

    def regions(length: int) -> torch.Tensor:
        padded = length + -length % window
        places = torch.arange(padded, device=device)
        return (places >= padded - window).long() + (places >= padded - shift).long()

    region = regions(height)[:, None] * 3 + regions(width)[None]
    rows, columns = region.shape[0] // window, region.shape[1] // window
    tokens = region.view(rows, window, columns, window).transpose(1, 2).reshape(-1, window**2)
    return (tokens[:, :, None] != tokens[:, None]).float() * -100.0


class SwinTransformer(Backbone):
    """Swin Transformer with a norm on every output.

    Args:
        embed_dim: channels of the first stage; they double per stage.
        depths, heads: blocks and attention heads of each of the four stages.
        window: window side in tokens.
        drop_path: stochastic depth of the last block, linear from 0 at the first.
        in_channels: of the image.
        out_features: of "p0", "p1", "p2", "p3" at strides 4 to 32.
    """

    def __init__(
        self,
        embed_dim: int,
        depths: Sequence[int],
        heads: Sequence[int],
        *,
        window: int = 7,
        drop_path: float = 0.0,
        in_channels: int = 3,
        out_features: Sequence[str] = ("p0", "p1", "p2", "p3"),
    ) -> None:
        super().__init__()
        channels = [embed_dim << i for i in range(len(depths))]
        names = [f"p{i}" for i in range(len(depths))]
        unknown = sorted(set(out_features) - set(names))
        if unknown:
            raise InputError(f"MODEL.SWIN.OUT_FEATURES: {unknown[0]!r} is none of {names}")
        rates = np.linspace(0, drop_path, sum(depths)).tolist()
        ends = list(accumulate(depths))
        self.patch_embed = PatchEmbed(in_channels, embed_dim)
        self.layers = nn.ModuleList(
            SwinStage(
                channels[i],
                heads[i],
                window=window,
                drop_path=rates[ends[i] - depths[i] : ends[i]],
                merge=i + 1 < len(depths),
            )
            for i in range(len(depths))
        )
        self._out_features = [n for n in names if n in out_features]
        for i, name in enumerate(names):
            if name in out_features:
                self.add_module(f"norm{i}", nn.LayerNorm(channels[i]))
        self._out_feature_channels = dict(zip(names, channels))
        self._out_feature_strides = {name: 4 << i for i, name in enumerate(names)}
        self.apply(_initialise)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map images (N, 3, H, W) of any size to maps of ceil(H / 4) rows, then halved, up."""
        x = self.patch_embed(x)
        outputs = {}
        for i, layer in enumerate(self.layers):
            tokens, x = layer(x)
            if f"p{i}" in self._out_features:
                normed = getattr(self, f"norm{i}")(tokens)
                outputs[f"p{i}"] = normed.permute(0, 3, 1, 2).contiguous()
        return outputs


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@BACKBONE_REGISTRY.register()
def build_swin_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SwinTransformer:
    """Build the network that ``MODEL.SWIN`` describes.

    Raises:
        InputError: MODEL.SWIN.SIZE or OUT_FEATURES is unknown.
    """
    options = cfg.MODEL.SWIN
    if options.SIZE and options.SIZE not in SIZES:
        raise InputError(f"MODEL.SWIN.SIZE {options.SIZE!r} is unknown: use {', '.join(SIZES)}")
    given = (options.EMBED_DIM, options.DEPTHS, options.HEADS)
    embed_dim, depths, heads = SIZES.get(options.SIZE, given)
    return SwinTransformer(
        embed_dim,
        depths,
        heads,
        window=options.WINDOW,
        drop_path=options.DROP_PATH,
        in_channels=input_shape.channels,
        out_features=options.OUT_FEATURES,
    )


@BACKBONE_REGISTRY.register()
def build_swin_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """An FPN over ``MODEL.FPN.IN_FEATURES`` of the Swin Transformer and a subsampled last level."""
    return FPN(
        bottom_up=build_swin_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
