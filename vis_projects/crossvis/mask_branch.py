"""The instance-agnostic mask features that all instances of an image share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from detectron2.config import configurable
from detectron2.layers import get_norm
from torch import nn

from ..modeling.aligned_bilinear import aligned_bilinear
from ..structures import InputError


def _block(in_channels: int, out_channels: int, norm: str) -> nn.Sequential:
    norm = "" if norm == "none" else norm
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=not norm)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    try:
        layers = [conv, get_norm(norm, out_channels)] if norm else [conv]
    except KeyError:
        raise InputError(
            f"MODEL.CONDINST.MASK_BRANCH.NORM {norm!r} is unknown: use BN, SyncBN, GN or ''"
        ) from None
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


class MaskBranch(nn.Module):
    """Sums the FPN levels on the finest one's grid and refines them (CondInst, section 3.1).

    Args:
        in_channels: channels of the FPN levels.
        in_features: their names, finest first.
        strides: their strides in pixels.
        channels: width of the branch.
        num_convs: refining convolutions after the sum.
        out_channels: mask features.
        norm: "BN", "GN", ... or "".
    """

    @configurable
    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        in_features: Sequence[str] = ("p3", "p4", "p5"),
        strides: Sequence[int] = (8, 16, 32),
        channels: int = 128,
        num_convs: int = 4,
        out_channels: int = 8,
        norm: str = "BN",
    ) -> None:
        super().__init__()
        self.in_features = list(in_features)
        self.factors = [s // strides[0] for s in strides]
        self.refine = nn.ModuleList(_block(c, channels, norm) for c in in_channels)
        final = nn.Conv2d(channels, max(out_channels, 1), 1)
        tower = [_block(channels, channels, norm) for _ in range(num_convs)]
        self.tower = nn.Sequential(*tower, final)

    @classmethod
    def from_config(cls, cfg, input_shape: Mapping[str, object]) -> dict:
        node = cfg.MODEL.CONDINST.MASK_BRANCH
        if node.SEMANTIC_LOSS_ON:
            raise InputError(
                "MODEL.CONDINST.MASK_BRANCH.SEMANTIC_LOSS_ON: the auxiliary semantic loss is off "
                "in every published configuration and not provided; set it to False"
            )
        shapes = [input_shape[name] for name in node.IN_FEATURES]
        return {
            "in_channels": [s.channels for s in shapes],
            "in_features": node.IN_FEATURES,
            "strides": [s.stride for s in shapes],
            "channels": node.CHANNELS,
            "num_convs": node.NUM_CONVS,
            "out_channels": node.OUT_CHANNELS,
            "norm": node.NORM,
        }

    def forward(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the mask features (B, C, h, w) on the finest level's grid."""
        total = None
        for name, refine, factor in zip(self.in_features, self.refine, self.factors):
            x = aligned_bilinear(refine(features[name]), factor)
            total = x if total is None else total + self._fit(x, total)
        return self.tower(total)

    @staticmethod
    def _fit(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Cut an enlarged coarse map to the fine one (equal already if sides are padded)."""
        return x[:, :, : like.shape[2], : like.shape[3]]
