"""CFBI's feature extractor: DeepLabV3+ on a dilated ResNet, and the embedding on top.

Module names follow the official checkpoints. All ``align_corners`` are True in CFBI.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
import torchvision
from detectron2.layers import FrozenBatchNorm2d
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .enlarging import conv3x3_of_enlarged

Norm = Callable[[int], nn.Module]
_DEPTHS = {18: torchvision.models.resnet18, 50: torchvision.models.resnet50,
           101: torchvision.models.resnet101}  # fmt: skip


def resize(x: torch.Tensor, size: tuple[int, int], mode: str = "bilinear") -> torch.Tensor:
    """Resize (N, C, h, w) with aligned corners."""
    return F.interpolate(x, size, mode=mode, align_corners=True)


def get_norm(name: str) -> Norm:
    """``FrozenBN`` for official weights, ``BN`` or ``GN`` to train from scratch."""
    return {"FrozenBN": FrozenBatchNorm2d, "BN": nn.BatchNorm2d, "GN": _group_norm}[name]


def _group_norm(channels: int) -> nn.GroupNorm:
    """At most 32 groups, of four channels at least."""
    return nn.GroupNorm(max(min(32, channels // 4), 1), channels)


def dilated_resnet(depth: int, norm: Norm) -> nn.Module:
    """A torchvision ResNet at output stride 16: layer4 keeps its size, dilated 2, 4, 8, ..."""
    net = _DEPTHS[depth](weights=None, norm_layer=norm)
    del net.fc, net.avgpool
    for number, block in enumerate(net.layer4):
        rate = 2 * 2**number
        for conv in block.modules():
            if isinstance(conv, nn.Conv2d):
                conv.stride = (1, 1)
                if conv.kernel_size == (3, 3):
                    conv.dilation = conv.padding = (rate, rate)
    return net


class AtrousBranch(nn.Module):
    """One branch of the extractor's ASPP: convolution, norm, ReLU."""

    def __init__(self, channels: int, width: int, rate: int, norm: Norm) -> None:
        super().__init__()
        kernel = 1 if rate == 1 else 3
        padding = 0 if rate == 1 else rate
        self.atrous_conv = nn.Conv2d(
            channels, width, kernel, padding=padding, dilation=rate, bias=False
        )
        self.bn = norm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu_(self.bn(self.atrous_conv(x)))


class ASPP(nn.Module):
    """Four atrous branches and image pooling, fused to ``width`` channels."""

    def __init__(self, channels: int, width: int, norm: Norm) -> None:
        super().__init__()
        for i, rate in enumerate((1, 6, 12, 18), 1):
            setattr(self, f"aspp{i}", AtrousBranch(channels, width, rate, norm))
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, width, 1, bias=False),
            # One value per image: a batch norm that trains cannot normalise it.
            norm(width) if norm is FrozenBatchNorm2d else nn.GroupNorm(1, width),
            nn.ReLU(),
        )
        self.conv1 = nn.Conv2d(5 * width, width, 1, bias=False)
        self.bn1 = norm(width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [self.aspp1(x), self.aspp2(x), self.aspp3(x), self.aspp4(x)]
        parts.append(self.global_avg_pool(x).expand(-1, -1, *x.shape[-2:]))
        return self.dropout(F.relu_(self.bn1(self.conv1(torch.cat(parts, 1)))))


class Decoder(nn.Module):
    """Joins the ASPP with the low-level features at stride 4."""

    def __init__(self, low_channels: int, width: int, norm: Norm) -> None:
        super().__init__()
        low = max(width * 3 // 16, 8)
        self.conv1 = nn.Conv2d(low_channels, low, 1, bias=False)
        self.bn1 = norm(low)
        self.last_conv = nn.Sequential(
            nn.Conv2d(width + low, width, 3, padding=1, bias=False),
            norm(width),
            nn.ReLU(inplace=True),
            nn.Identity(),  # keeps the official indices; dropout 0.5 of DeepLab is not used
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            norm(width),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        size, channels = low.shape[-2:], x.shape[1]
        low = F.relu_(self.bn1(self.conv1(low)))
        conv, *rest = self.last_conv
        # The first convolution sees both maps side by side: it acts on the parts and sums.
        y = F.conv2d(low, conv.weight[:, channels:], conv.bias, padding=1)
        y = y.add_(conv3x3_of_enlarged(x, conv.weight[:, :channels], size))
        for layer in rest:
            y = layer(y)
        return y


class FeatureExtractor(nn.Module):
    """DeepLabV3+: (B, 3, H, W) to features (B, width, h, w) and layer1, both at stride 4.

    At test batch norms are folded into the convolutions once, and used until weights change.
    """

    def __init__(self, depth: int = 101, width: int = 256, *, norm: str = "FrozenBN") -> None:
        super().__init__()
        kind = get_norm(norm)
        self.backbone = dilated_resnet(depth, kind)
        expansion = 1 if depth == 18 else 4
        self.low_channels = 64 * expansion
        self.aspp = ASPP(512 * expansion, width, kind)
        self.decoder = Decoder(self.low_channels, width, kind)
        self._folds = norm != "GN"
        self._folded: list[FeatureExtractor] = []  # in a list: it is no child
        self._versions: tuple[int, ...] = ()

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        plain = self.training or torch.is_grad_enabled() or torch.compiler.is_compiling()
        if self._folds and not plain:
            return self._fold()._extract(image)
        return self._extract(image)

    def _extract(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        net = self.backbone
        low = net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(image)))))
        deep = net.layer4(net.layer3(net.layer2(low)))
        return self.decoder(self.aspp(deep), low), low

    def _fold(self) -> FeatureExtractor:
        """A copy with batch norms folded into the convolutions before them."""
        tensors = [*self.parameters(), *self.buffers()]
        versions = tuple(v for t in tensors for v in (t.data_ptr(), t._version))
        if versions != self._versions:
            self._folded = []  # not copied
            folded = copy.deepcopy(self)
            for parent, conv, norm in _conv_norm_pairs(folded):
                fused = fuse_conv_bn_eval(parent._modules[conv], parent._modules[norm])
                parent._modules[conv] = fused.requires_grad_(False)
                parent._modules[norm] = nn.Identity()
            # Not packed (packed_convolution): such 3x3 convolutions round two to three
            # times as much; masks are fed back, and a recorded run (paths/cfbi) leaves its track.
            self._folded, self._versions = [folded], versions
        return self._folded[0]


def _conv_norm_pairs(net: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """Every convolution and the batch norm after it: their parent and names."""
    for parent in list(net.modules()):
        names = list(parent._modules)
        for conv, norm in pairwise(names):
            if isinstance(parent._modules[norm], (nn.BatchNorm2d, FrozenBatchNorm2d)):
                yield parent, conv, norm


def semantic_embedding(width: int, dim: int) -> nn.Sequential:
    """Depth-wise 3x3, GroupNorm, ReLU, 1x1 to ``dim`` channels, GroupNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, groups=width),
        nn.GroupNorm(32, width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, dim, 1),
        nn.GroupNorm(dim // 4, dim),
        nn.ReLU(inplace=True),
    )
