"""Collaborative ensembler of CFBI: instance attention, gated bottlenecks, decoder, logits.

Letters: N objects (the background is object 0) as batch, C channels, A numbers of an attention
vector, h x w cells at stride 4. Module names follow the official checkpoints.

Gates and GCTs multiply whole channels. Before a 1x1 convolution the factors go into its weights,
object by object, so that no scaled copy of a map is made.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ..modeling.precision import at_least_float32
from .enlarging import conv3x3_of_enlarged


class InstanceGate(nn.Module):
    """Instance attention gate: factors ``1 + tanh(W a + c)`` per channel (CFBI section 3.3)."""

    def __init__(self, attention_dim: int, channels: int) -> None:
        super().__init__()
        self.IA = nn.Linear(attention_dim, channels)

    def forward(self, attention: torch.Tensor) -> torch.Tensor:
        """Factors (N, C) of attention vectors (N, A)."""
        return 1 + torch.tanh(self.IA(attention))


class GCT(nn.Module):
    """Gated channel transformation with the l2 norm; the identity at its initial values."""

    def __init__(self, channels: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.epsilon = epsilon

    def forward(self, energy: torch.Tensor) -> torch.Tensor:
        """Factors (N, C) for a map whose sums of squares over the cells are ``energy`` (N, C)."""
        alpha, gamma, beta = (p.flatten(1) for p in (self.alpha, self.gamma, self.beta))
        size = alpha * (energy + self.epsilon).sqrt()
        norm = gamma / (size.square().mean(1, keepdim=True) + self.epsilon).sqrt()
        return 1 + torch.tanh(size * norm + beta)


def energy_of(x: torch.Tensor) -> torch.Tensor:
    """Sums of squares over the cells, (N, C, h, w) to (N, C)."""
    return torch.linalg.vector_norm(at_least_float32(x), dim=(2, 3)).square()


def scaled(x: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """``x`` (N, C, h, w) times factors (N, C)."""
    return x * factors[..., None, None]


def scaled_conv1x1(x: torch.Tensor, factors: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
    """``conv(scaled(x, factors))`` for a 1x1 convolution: the factors go into its weights."""
    stride = conv.stride[0]
    if stride > 1:
        x = x[..., ::stride, ::stride]
    weight = conv.weight.flatten(1) * factors[:, None]
    return torch.bmm(weight, x.flatten(2)).unflatten(2, x.shape[-2:])


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

    def forward(self, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """The block on ``x`` (N, C, h, w) times its instance attention gate (N, C)."""
        factors = gate * self.GCT1(energy_of(x) * gate.square())
        y = F.relu_(self.bn1(scaled_conv1x1(x, factors, self.conv1)))
        y = F.relu_(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.downsample is None:
            y = y.addcmul_(x, gate[..., None, None].to(x.dtype))
        else:
            conv, norm = self.downsample
            y = y.add_(norm(scaled_conv1x1(x, gate, conv)))
        return F.relu_(y)


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

    def forward(self, x: torch.Tensor, energy: torch.Tensor) -> torch.Tensor:
        return F.relu_(self.bn(self.atrous_conv(scaled(x, self.GCT(energy)))))


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
        energy = energy_of(x)
        parts = [branch(x, energy) for branch in (self.aspp1, self.aspp2, self.aspp3, self.aspp4)]
        parts.append(self.global_avg_pool(x).expand(-1, -1, *x.shape[-2:]))
        x = torch.cat(parts, 1)
        return F.relu_(self.bn1(scaled_conv1x1(x, self.GCT(energy_of(x)), self.conv1)))


class PreHead(nn.Module):
    """The fifteen matching maps and masks of an object, (N, 15, h, w), to ``width`` channels."""

    def __init__(self, channels: int = 15, width: int = 64) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 1)
        self.bn = nn.GroupNorm(width // 4, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu_(self.bn(self.conv(x)))


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

    def forward(
        self, x: torch.Tensor, attention: torch.Tensor, low: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return foreground and background logits, (N, h, w) each.

        Objects do not see each other, so that they may come in several calls.

        Args:
            x: (N, channels, h, w).
            attention: (N, A).
            low: layer1's output of the frame, (low_channels, h, w).
        """
        side: torch.Tensor | None = None
        for k in range(1, 9):
            x = getattr(self, f"layer{k}")(x, getattr(self, f"IA{k}")(attention))
            if k == 2:
                side = x
        x = self.ASPP(scaled(x, self.IA9(attention)))
        return self._logits(self._decode(x, side, low, attention), attention)

    def _decode(
        self, x: torch.Tensor, side: torch.Tensor, low: torch.Tensor, attention: torch.Tensor
    ) -> torch.Tensor:
        """Bring the ASPP's output to stride 4 and join it with ``side`` and layer1.

        No channels are put together before a convolution: it acts on the parts and sums.
        """
        size, channels = side.shape[-2:], x.shape[1]
        skip = F.relu_(self.bn_sc(self._skip(side, low)))
        gate = self.IA10(attention)
        weight = self.conv1.weight
        y = conv3x3_of_enlarged(
            scaled(x, gate[:, :channels]), weight[:, :channels], size, mode="bicubic"
        )
        y = y.add_(F.conv2d(scaled(skip, gate[:, channels:]), weight[:, channels:], padding=1))
        y = F.relu_(self.bn1(y))
        return F.relu_(self.bn2(self.conv2(scaled(y, self.IA11(attention)))))

    def _skip(self, side: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        """``conv_sc`` on layer1's channels, which all objects share, and the objects' own."""
        shared = len(low)
        energy = energy_of(low[None]).expand(len(side), -1)
        factors = self.GCT_sc(torch.cat([energy, energy_of(side)], 1))
        weight = self.conv_sc.weight.flatten(1) * factors[:, None]
        y = torch.matmul(weight[..., :shared].flatten(0, 1), low.flatten(1))
        own = torch.bmm(weight[..., shared:], side.flatten(2))
        return own.add_(y.view_as(own)).unflatten(2, side.shape[-2:])

    def _logits(
        self, x: torch.Tensor, attention: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply each object's own 1x1 convolutions: weights, then one bias, from its attention."""
        parameters = torch.stack([self.IA_final_fg(attention), self.IA_final_bg(attention)], 1)
        y = torch.bmm(parameters[..., :-1], x.flatten(2)) + parameters[..., -1:]
        foreground, background = y.unflatten(2, x.shape[-2:]).unbind(1)
        return foreground, background


def collaborate(foreground: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    """Add the smallest background logit of the objects to the background's own logit, (N, h, w)."""
    if len(foreground) == 1:
        return foreground
    first = foreground[:1] + background[1:].amin(0, keepdim=True)
    return torch.cat([first, foreground[1:]])
