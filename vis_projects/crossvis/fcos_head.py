"""FCOS's convolutional head with an embedding tower beside it.

Letters: B images, C classes, E embedding channels, L levels, h_l x w_l cells of level l.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.config import configurable
from detectron2.layers import get_norm
from torch import nn

from ..structures import InputError

# Norms that keep statistics: the levels differ in theirs, so each has a layer of its own.
_PER_LEVEL = ("BN", "SyncBN")
_SAME = {"none": "", "NaiveGN": "GN"}  # names of other implementations, same function and keys


class Scale(nn.Module):
    """A learned factor."""

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([value]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


class Tower(nn.Sequential):
    """Convolutions over the maps of all levels; a list among the layers has one for each level."""

    def forward(self, x: torch.Tensor, level: int) -> torch.Tensor:
        for layer in self:
            x = layer[level](x) if isinstance(layer, nn.ModuleList) else layer(x)
        return x


def build_norm(name: str, channels: int, num_levels: int) -> nn.Module | None:
    """Return the norm layer that MODEL.FCOS.NORM names, one per level where it keeps statistics.

    Raises:
        InputError: an unknown name.
    """
    name = _SAME.get(name, name)
    try:
        if name in _PER_LEVEL:
            return nn.ModuleList(get_norm(name, channels) for _ in range(num_levels))
        return get_norm(name, channels)
    except KeyError:
        raise InputError(
            f"MODEL.FCOS.NORM {name!r} is unknown: use GN, NaiveGN, BN, SyncBN, FrozenBN or none"
        ) from None


@dataclass
class HeadOutputs:
    """Per level lists of maps.

    Attributes:
        logits: (B, C, h_l, w_l).
        distances: (B, 4, h_l, w_l), left, top, right, bottom in strides, >= 0.
        centerness: (B, 1, h_l, w_l) logits.
        bbox_features: (B, 256, h_l, w_l), what the controller reads.
        embeddings: (B, E, h_l, w_l), empty for a head without the embedding tower.
    """

    logits: list[torch.Tensor]
    distances: list[torch.Tensor]
    centerness: list[torch.Tensor]
    bbox_features: list[torch.Tensor]
    embeddings: list[torch.Tensor]


def _normal_init(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class FCOSHead(nn.Module):
    """Towers and predictors, shared over the levels (FCOS, section 3; CrossVIS, section 3.3).

    Args:
        in_channels: channels of every level.
        num_levels: L.
        num_classes: C.
        num_cls_convs, num_box_convs, num_share_convs: depth of the towers; the embedding tower is
            as deep as the class tower.
        norm: "GN" or "NaiveGN", "BN" or "SyncBN" (one per level), ..., "none" or "".
        use_scale: a learned factor per level on the distances.
        prior_prob: initial class probability.
        box_bias: initial bias of the distances, in strides.
        embedding_dim: E; 0 leaves the embedding tower out.
    """

    @configurable
    def __init__(
        self,
        *,
        in_channels: int = 256,
        num_levels: int = 5,
        num_classes: int = 40,
        num_cls_convs: int = 4,
        num_box_convs: int = 4,
        num_share_convs: int = 0,
        norm: str = "GN",
        use_scale: bool = True,
        prior_prob: float = 0.01,
        box_bias: float = 0.0,
        embedding_dim: int = 256,
    ) -> None:
        super().__init__()
        self.in_channels, self.num_levels = in_channels, num_levels
        self.share_tower = self._tower(num_share_convs, norm)
        self.cls_tower = self._tower(num_cls_convs, norm)
        self.bbox_tower = self._tower(num_box_convs, norm)
        self.cls_logits = nn.Conv2d(in_channels, num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.ctrness = nn.Conv2d(in_channels, 1, 3, padding=1)
        self.scales = nn.ModuleList(Scale() for _ in range(num_levels)) if use_scale else None
        self.reid_tower = self.reid_pred = self.reid_pred_bn = None
        if embedding_dim:
            self.reid_tower = self._tower(num_cls_convs, norm)
            self.reid_pred = nn.Conv2d(in_channels, embedding_dim, 1)
            self.reid_pred_bn = nn.BatchNorm2d(embedding_dim)
        _normal_init(self)
        nn.init.constant_(self.cls_logits.bias, -math.log((1 - prior_prob) / prior_prob))
        nn.init.constant_(self.bbox_pred.bias, box_bias)

    @classmethod
    def from_config(cls, cfg, in_channels: int, embedding_dim: int) -> dict:
        node = cfg.MODEL.FCOS
        return {
            "in_channels": in_channels,
            "num_levels": len(node.FPN_STRIDES),
            "num_classes": node.NUM_CLASSES,
            "num_cls_convs": node.NUM_CLS_CONVS,
            "num_box_convs": node.NUM_BOX_CONVS,
            "num_share_convs": node.NUM_SHARE_CONVS,
            "norm": node.NORM,
            "use_scale": node.USE_SCALE,
            "prior_prob": node.PRIOR_PROB,
            "box_bias": node.BOX_BIAS,
            "embedding_dim": embedding_dim,
        }

    def _tower(self, num_convs: int, norm: str) -> Tower:
        layers: list[nn.Module] = []
        for _ in range(num_convs):
            layers.append(nn.Conv2d(self.in_channels, self.in_channels, 3, padding=1))
            layer = build_norm(norm, self.in_channels, self.num_levels)
            if layer is not None:
                layers.append(layer)
            layers.append(nn.ReLU())
        return Tower(*layers)

    def forward(self, features: Sequence[torch.Tensor]) -> HeadOutputs:
        """Run on the levels' features [(B, 256, h_l, w_l)]."""
        out = HeadOutputs([], [], [], [], [])
        for level, x in enumerate(features):
            x = self.share_tower(x, level)
            boxes = self.bbox_tower(x, level)
            distances = self.bbox_pred(boxes)
            if self.scales is not None:
                distances = self.scales[level](distances)
            out.logits.append(self.cls_logits(self.cls_tower(x, level)))
            out.distances.append(distances.relu())
            out.centerness.append(self.ctrness(boxes))
            out.bbox_features.append(boxes)
            if self.reid_tower is not None:
                # One batch norm sees the levels in turn, also its running statistics.
                tower = self.reid_tower(x, level)
                out.embeddings.append(self.reid_pred_bn(self.reid_pred(tower)))
        return out
