"""Networks that tell which of two masks of an object is better (MSN, Section 3.2).

Letters: N pairs, S side of the crop in pixels. Input (N, 8, S, S): red, green, blue and mask of A,
then of B; colours in [0, 1], masks 0 or 1. Output (N, 1, h, w): logits of "A is better", one for
each patch.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torchvision.models import resnet18

from ..structures import InputError

IN_CHANNELS = 8


class PatchSelector(nn.Sequential):
    """The mask selection network: a PatchGAN discriminator of five strided convolutions.

    It has the published cost (Table 1: 11.1 M parameters, 2.22 GMac at 256 x 256); the layers are
    deduced from these figures. The receptive field is 286 pixels.

    Args:
        width: channels of the first layer; they double up to eight times that.
        layers: strided convolutions.
    """

    def __init__(self, *, width: int = 64, layers: int = 5) -> None:
        widths = [width * min(2**i, 8) for i in range(layers)]
        modules: list[nn.Module] = [nn.Conv2d(IN_CHANNELS, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for before, after in pairwise(widths):
            modules += _block(before, after, stride=2)
        last = width * min(2**layers, 8)
        modules += _block(widths[-1], last, stride=1)
        modules.append(nn.Conv2d(last, 1, 4, 1, 1))
        super().__init__(*modules)
        self.apply(_initialise)


def _block(before: int, after: int, *, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(before, after, 4, stride, 1, bias=False)
    return [conv, nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]


def _initialise(module: nn.Module) -> None:
    """As pix2pix does (chosen)."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class SelectorNet(nn.Module):
    """The older selector that MSN is compared with (Section 3.2, Table 1: 11.7 M, 19.45 GMac).

    A ResNet-18 sees image and mask of each candidate by itself, its features are pooled over
    space, and fully connected layers score the two. Their widths (2 x 512 to 512 to 2) are chosen:
    they give 11.71 M parameters. Its convolutions and linear layers take 19.36 GMac for a pair at
    512 x 512, so the published figure fits that size.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trunk = resnet18(weights=None)
        self.trunk.conv1 = nn.Conv2d(IN_CHANNELS // 2, 64, 7, 2, 3, bias=False)
        nn.init.kaiming_normal_(self.trunk.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.trunk.fc = nn.Identity()
        self.head = nn.Sequential(nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the difference of the two scores as a single patch, (N, 1, 1, 1)."""
        both = torch.cat(x.chunk(2, 1))
        features = torch.cat(self.trunk(both).chunk(2), 1)
        scores = self.head(features)
        return (scores[:, 0] - scores[:, 1]).view(-1, 1, 1, 1)


def build_selection_network(name: str, *, width: int = 64, layers: int = 5) -> nn.Module:
    """Return the network of ``MODEL.MSN.SELECTOR.NAME``: "patch" or "selector_net".

    Raises:
        InputError: another name.
    """
    if name == "patch":
        return PatchSelector(width=width, layers=layers)
    if name == "selector_net":
        return SelectorNet()
    raise InputError(f"MODEL.MSN.SELECTOR.NAME {name!r} is unknown: use patch or selector_net")


def pair_logit(scores: torch.Tensor, how: str = "mean_logit") -> torch.Tensor:
    """Aggregate patch logits (N, 1, h, w) to one logit per pair (N,).

    Args:
        how: "mean_logit", "mean_prob" (mean of the patch probabilities) or "vote" (share of the
            patches that prefer A).

    Raises:
        InputError: another ``how``.
    """
    patches = scores.flatten(1)
    if how == "mean_logit":
        return patches.mean(1)
    if how == "mean_prob":
        return torch.logit(patches.sigmoid().mean(1), eps=1e-6)
    if how == "vote":
        return torch.logit((patches > 0).to(patches.dtype).mean(1), eps=1e-6)
    raise InputError(
        f"MODEL.MSN.SELECTOR.AGGREGATE {how!r} is unknown: use mean_logit, mean_prob or vote"
    )
