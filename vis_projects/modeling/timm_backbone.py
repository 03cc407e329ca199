"""Any image network of the timm library as a Detectron2 backbone."""

from __future__ import annotations

import math

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.layers.batch_norm import FrozenBatchNorm2d
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import nn

from ..config import register_config
from ..structures import InputError

_NORMS = ("", "FrozenBN", "SyncBN")


@register_config("timm")
def add_timm_config(cfg: CfgNode) -> None:
    """Add MODEL.TIMM, read by ``build_timm_backbone`` and the pyramids on top of it."""
    cfg.MODEL.TIMM = CfgNode()
    # Name in timm, such as "dla34"; python -c "import timm; print(timm.list_models('dla*'))".
    cfg.MODEL.TIMM.NAME = "dla34"
    # Start from timm's ImageNet weights (downloads them); only matters without MODEL.WEIGHTS.
    cfg.MODEL.TIMM.PRETRAINED = False
    # "" keeps the network's own norm layers, "FrozenBN" freezes and "SyncBN" synchronises them.
    cfg.MODEL.TIMM.NORM = ""


class TimmBackbone(Backbone):
    """A timm network that gives one map per stride, named as Detectron2 names ResNet's stages.

    The map of stride 2**k is called ``res{k}``: ``res2`` to ``res5`` in most networks. Where
    several maps share a stride, the deepest counts.

    Args:
        name: of the network in timm.
        in_channels: of the images.
        pretrained: download and use timm's weights.
        norm: see ``MODEL.TIMM.NORM``.

    Raises:
        InputError: timm is missing, does not know the name, or the network has no feature maps.
    """

    def __init__(
        self, name: str, *, in_channels: int = 3, pretrained: bool = False, norm: str = ""
    ) -> None:
        super().__init__()
        if norm not in _NORMS:
            raise InputError(f"MODEL.TIMM.NORM {norm!r} is unknown: use one of {_NORMS}")
        self.net = _create(name, in_channels, pretrained)
        strides = self.net.feature_info.reduction()
        deepest = {stride: i for i, stride in enumerate(strides) if stride >= 4}
        self._picked = {f"res{int(math.log2(s))}": i for s, i in deepest.items()}
        channels = self.net.feature_info.channels()
        self._out_features = list(self._picked)
        self._out_feature_channels = {n: channels[i] for n, i in self._picked.items()}
        self._out_feature_strides = {n: strides[i] for n, i in self._picked.items()}
        if norm == "FrozenBN":
            self.net = FrozenBatchNorm2d.convert_frozen_batchnorm(self.net)
        elif norm == "SyncBN":
            self.net = nn.SyncBatchNorm.convert_sync_batchnorm(self.net)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = self.net(x)
        return {name: maps[i] for name, i in self._picked.items()}


def _create(name: str, in_channels: int, pretrained: bool) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise InputError(
            f"MODEL.TIMM.NAME {name}: timm is not installed (pip install timm)"
        ) from None
    if name.split(".")[0] not in timm.list_models():
        close = timm.list_models(f"*{name[:4]}*")[:5]
        hint = f"; timm has {', '.join(close)}" if close else ""
        raise InputError(f"MODEL.TIMM.NAME {name!r} is no network of timm{hint}")
    try:
        return timm.create_model(
            name, features_only=True, pretrained=pretrained, in_chans=in_channels
        )
    except (RuntimeError, AttributeError) as error:
        raise InputError(f"MODEL.TIMM.NAME {name}: {' '.join(str(error).split())}") from None


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """Build the network that ``MODEL.TIMM`` names."""
    node = cfg.MODEL.TIMM
    return TimmBackbone(
        node.NAME, in_channels=input_shape.channels, pretrained=node.PRETRAINED, norm=node.NORM
    )
