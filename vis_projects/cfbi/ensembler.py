"""Collaborative ensembler of CFBI: instance attention, gated bottlenecks, decoder, logits.

Letters: N objects (the background is object 0) as batch, A numbers of an attention vector,
h x w cells at stride 4. Module names follow the official checkpoints.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .extractor import resize


class InstanceGate(nn.Module):
    """Instance attention gate: ``x * (1 + tanh(W a + c))`` per channel (CFBI section 3.3)."""

    def __init__(self, attention_dim: int, channels: int) -> None:
        super().__init__()
        self.IA = nn.Linear(attention_dim, channels)

    def forward(self, x: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
        return x * (1 + torch.tanh(self.IA(attention)))[..., None, None]


class GCT(nn.Module):
    """Gated channel transformation with the l2 norm; the identity at its initial values."""

    def __init__(self, channels: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        energy = self.alpha * (x.square().sum((2, 3), keepdim=True) + self.epsilon).sqrt()
        norm = self.gamma / (energy.square().mean(1, keepdim=True) + self.epsilon).sqrt()
        return x * (1 + torch.tanh(energy * norm + self.beta))


class Bottleneck(nn.Module):
    """Residual bottleneck whose residual branch begins with a GCT."""

    def __init__(self, channels: int, out: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        width = out // 4
        self.GCT1 = GCT(channels)
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = group_norm(width)
        self.conv2 = nn.Conv2d(
            width, width, 3, stride=stride, padding=dilation, dilation=dilation, bias=False
        )
        self.bn2 = group_norm(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = group_norm(out)
        self.downsample = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride=stride, bias=False), group_norm(out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(self.GCT1(x))))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups, fewer for narrow layers."""
    return nn.GroupNorm(min(32, channels // 2), channels)


class GatedBranch(nn.Module):
    """One branch of the ensembler's ASPP: GCT, convolution, GroupNorm, ReLU."""

    def __init__(self, channels: int, width: int, rate: int) -> None:
        super().__init__()
        kernel = 1 if rate == 1 else 3
        padding = 0 if rate == 1 else rate
        self.GCT = GCT(channels)
        self.atrous_conv = nn.Conv2d(
            channels, width, kernel, padding=padding, dilation=rate, bias=False
        )
        self.bn = group_norm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.atrous_conv(self.GCT(x))))


class GatedASPP(nn.Module):
    """Four gated branches and image pooling (without a norm), fused by a GCT and a 1x1."""

    def __init__(self, channels: int, width: int, out: int) -> None:
        super().__init__()
        for i, rate in enumerate((1, 6, 12, 18), 1):
            setattr(self, f"aspp{i}", GatedBranch(channels, width, rate))
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, width, 1, bias=False), nn.ReLU()
        )
        self.GCT = GCT(5 * width)
        self.conv1 = nn.Conv2d(5 * width, out, 1, bias=False)
        self.bn1 = group_norm(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [self.aspp1(x), self.aspp2(x), self.aspp3(x), self.aspp4(x)]
        parts.append(self.global_avg_pool(x).expand(-1, -1, *x.shape[-2:]))
        return F.relu(self.bn1(self.conv1(self.GCT(torch.cat(parts, 1)))))


class PreHead(nn.Module):
    """The fifteen matching maps and masks of an object, (N, 15, h, w), to ``width`` channels."""

    def __init__(self, channels: int = 15, width: int = 64) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 1)
        self.bn = nn.GroupNorm(width // 4, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))


class CollaborativeEnsembler(nn.Module):
    """From per-object inputs at stride 4 to one logit per object and cell (CFBI section 3.4).

    Args:
        channels: of the input, 3 embeddings and the pre-head.
        attention_dim: A, four embeddings.
        low_channels: of the extractor's layer1.
        width: of the first stage (256); later stages have twice as many.
    """

    def __init__(
        self, channels: int, attention_dim: int, low_channels: int, *, width: int = 256
    ) -> None:
        super().__init__()
        wide, half = 2 * width, width // 2
        side = width // 4
        plan = [
            (channels, width, 1, 1), (width, width, 1, 2),
            (width, wide, 2, 1), (wide, wide, 1, 2), (wide, wide, 1, 4),
            (wide, wide, 2, 1), (wide, wide, 1, 2), (wide, wide, 1, 4),
        ]  # fmt: skip
        for k, (inner, out, stride, dilation) in enumerate(plan, 1):
            setattr(self, f"IA{k}", InstanceGate(attention_dim, inner))
            setattr(self, f"layer{k}", Bottleneck(inner, out, stride, dilation))
        self.IA9 = InstanceGate(attention_dim, wide)
        self.ASPP = GatedASPP(wide, half, width)
        self.GCT_sc = GCT(width + low_channels)
        self.conv_sc = nn.Conv2d(width + low_channels, side, 1, bias=False)
        self.bn_sc = nn.GroupNorm(max(side // 4, 1), side)
        self.IA10 = InstanceGate(attention_dim, width + side)
        self.conv1 = nn.Conv2d(width + side, half, 3, padding=1, bias=False)
        self.bn1 = group_norm(half)
        self.IA11 = InstanceGate(attention_dim, half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, bias=False)
        self.bn2 = group_norm(half)
        self.IA_final_fg = nn.Linear(attention_dim, half + 1)
        self.IA_final_bg = nn.Linear(attention_dim, half + 1)

    def forward(self, x: torch.Tensor, attention: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        """Return logits (N, h, w).

        Args:
            x: (N, channels, h, w).
            attention: (N, A).
            low: layer1's output of the frame, (1, low_channels, h, w).
        """
        side: torch.Tensor | None = None
        for k in range(1, 9):
            x = getattr(self, f"layer{k}")(getattr(self, f"IA{k}")(x, attention))
            if k == 2:
                side = x
        x = self.ASPP(self.IA9(x, attention))
        x = resize(x, side.shape[-2:], "bicubic")
        skip = torch.cat([low.expand(len(side), -1, -1, -1), side], 1)
        skip = F.relu(self.bn_sc(self.conv_sc(self.GCT_sc(skip))))
        x = self.IA10(torch.cat([x, skip], 1), attention)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(self.IA11(x, attention))))
        foreground = self._logits(x, self.IA_final_fg(attention))
        if len(x) == 1:
            return foreground
        background = self._logits(x, self.IA_final_bg(attention))
        first = foreground[:1] + background[1:].amin(0, keepdim=True)
        return torch.cat([first, foreground[1:]])

    @staticmethod
    def _logits(x: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Apply each object's own 1x1 convolution: weights, then one bias, from its attention."""
        weight, bias = parameters[:, :-1], parameters[:, -1]
        return torch.einsum("nchw,nc->nhw", x, weight) + bias[:, None, None]
