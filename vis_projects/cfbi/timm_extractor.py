"""CFBI's feature extractor on a timm network (ours): the same ASPP and decoder on another trunk, or
the trunk's own maps as the embedding."""

from __future__ import annotations

import torch
from torch import nn

from ..modeling.backbones.timm_backbone import TimmBackbone
from ..modeling.matching import joint_maps
from ..structures import InputError
from .extractor import ASPP, Decoder, get_norm, resize


class TimmExtractor(nn.Module):
    """(B, 3, H, W) to features (B, width, h, w) and the trunk's finest map, both at stride 4.

    The ASPP reads the map of stride 16 and, enlarged, that of stride 32, where the paper's ResNet
    has a dilated last stage.

    Args:
        trunk: the network.
        width: channels of the result.
        norm: of ASPP and decoder.

    Raises:
        InputError: the trunk lacks one of the strides 4, 16 and 32.
    """

    def __init__(self, trunk: TimmBackbone, width: int, *, norm: str = "GN") -> None:
        super().__init__()
        shapes = trunk.output_shape()
        missing = [n for n in ("res2", "res4", "res5") if n not in shapes]
        if missing:
            raise InputError(
                f"MODEL.TIMM.NAME {trunk.name}: CFBI reads maps of strides 4, 16 and 32, this "
                f"network has {', '.join(str(s.stride) for s in shapes.values())}"
            )
        kind = get_norm(norm)
        self.trunk = trunk
        self.low_channels = shapes["res2"].channels
        self.aspp = ASPP(shapes["res4"].channels + shapes["res5"].channels, width, kind)
        self.decoder = Decoder(self.low_channels, width, kind)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = self.trunk(image)
        deep = maps["res4"]
        deep = torch.cat([deep, resize(maps["res5"], tuple(deep.shape[-2:]))], 1)
        return self.decoder(self.aspp(deep), maps["res2"]), maps["res2"]


class TrunkFeatures(nn.Module):
    """(B, 3, H, W) to the trunk's maps of strides 8 and 16, each of unit length per cell, at
    stride 4 one after the other, (B, C, h, w), and its finest map, both at stride 4.

    What the matcher without training compares (``feature_match``): nothing is learned, so
    distances tell apart what the trunk has learned to tell apart.

    Args:
        trunk: the network.

    Raises:
        InputError: the trunk lacks one of the strides 4, 8 and 16.
    """

    LEVELS = ("res3", "res4")

    def __init__(self, trunk: TimmBackbone) -> None:
        super().__init__()
        shapes = trunk.output_shape()
        if any(n not in shapes for n in ("res2", *self.LEVELS)):
            raise InputError(
                f"MODEL.TIMM.NAME {trunk.name}: MODEL.CFBI.EMBEDDING trunk reads maps of strides "
                f"4, 8 and 16, this network has {', '.join(str(s.stride) for s in shapes.values())}"
            )
        self.trunk = trunk
        self.low_channels = shapes["res2"].channels
        self.channels = sum(shapes[level].channels for level in self.LEVELS)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = self.trunk(image, ("res2", *self.LEVELS))
        joint = joint_maps(maps, self.LEVELS, (1.0, 1.0))
        return resize(joint, tuple(maps["res2"].shape[-2:])), maps["res2"]
