"""The frozen feature extractor F: a ResNet under torchvision's names (FRTM, section 3.5).

``layer2`` .. ``layer5`` are conv2_x .. conv5_x, strides 4, 8, 16, 32; odd sizes round up.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from ..modeling.backbones.packed_convolution import PackedConv, pack
from ..modeling.backbones.timm_backbone import TimmBackbone, build_trunk
from ..structures import InputError
from ..weights import bring_own_weights, own_weights_later, read_weights

LAYERS = ("layer2", "layer3", "layer4", "layer5")
DEPTHS = (18, 34, 50, 101, 152)
PIXEL_MEAN = (123.675, 116.28, 103.53)  # 255 * (0.485, 0.456, 0.406), RGB
PIXEL_STD = (58.395, 57.12, 57.375)  # 255 * (0.229, 0.224, 0.225)


class ResNetFeatures(nn.Module):
    """torchvision's ResNet without its classifier; weights of torchvision load as they are.

    In ``eval`` mode batch norm is folded into the convolutions once, and used until weights
    change; in ``train`` mode (pre-training of a trunk only) it is an ordinary ResNet.

    Args:
        depth: 18, 34, 50, 101 or 152.
    """

    def __init__(self, depth: int = 18) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"ResNet depth {depth}: choose one of {DEPTHS}")
        net = models.get_model(f"resnet{depth}", weights=None)
        for name, child in net.named_children():
            if name not in ("avgpool", "fc", "relu", "maxpool"):
                self.add_module(name, child)
        self.depth, self.label = depth, f"resnet{depth}"
        expansion = 1 if depth < 50 else 4
        self.channels = {name: 64 * expansion * 2**i for i, name in enumerate(LAYERS)}
        pack(self)
        self._stem = PackedConv(self.conv1, self.bn1)
        self._folded: list[Any] | None = None
        self._versions: tuple[int, ...] = ()

    def forward(self, x: Tensor, *, last: str = "layer5") -> dict[str, Tensor]:
        """Return the feature maps of normalised RGB images (B, 3, H, W).

        Args:
            last: the deepest map wanted; deeper stages are not computed.
        """
        wanted = LAYERS[: LAYERS.index(last) + 1]
        if self.training or torch.compiler.is_compiling():
            return self._trained(x, wanted)
        if "forward" in self.layer1[0].__dict__ and self._stem.takes(x):
            return self._packed_forward(x, wanted)
        return self._folded_forward(x, wanted)

    def _stages(self) -> list[nn.Sequential]:
        return [self.layer1, self.layer2, self.layer3, self.layer4]

    def _trained(self, x: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        out = {}
        for name, stage in zip(wanted, self._stages()):
            x = out[name] = stage(x)
        return out

    def _packed_forward(self, x: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
        """The blocks themselves, which ``pack`` has taught to fold and fuse."""
        x = F.max_pool2d(self._stem(x, relu=True), 3, 2, 1)
        out = {}
        for name, stage in zip(wanted, self._stages()):
            x = out[name] = stage(x)
        return out

    def _folded_forward(self, x: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
        stem, stages = self._fold()
        x = x.contiguous(memory_format=torch.channels_last)
        x = F.max_pool2d(F.relu_(_apply(stem, x)), 3, 2, 1)
        out = {}
        for name, blocks in zip(wanted, stages):
            for convs, shortcut in blocks:
                y = x
                for conv in convs[:-1]:
                    y = F.relu_(_apply(conv, y))
                y = _apply(convs[-1], y)
                x = F.relu_(y.add_(x if shortcut is None else _apply(shortcut, x)))
            out[name] = x
        return out

    def _fold(self) -> list[Any]:
        """Return stem and stages as (weight, bias, stride, padding) with batch norm folded in."""
        versions = self._weight_versions()
        if self._folded is None or versions != self._versions:
            stages = []
            for stage in self._stages():
                blocks = []
                for block in stage:
                    count = 3 if hasattr(block, "conv3") else 2
                    names = range(1, count + 1)
                    convs = [
                        _folded(getattr(block, f"conv{i}"), getattr(block, f"bn{i}")) for i in names
                    ]
                    shortcut = block.downsample
                    blocks.append((convs, None if shortcut is None else _folded(*shortcut)))
                stages.append(blocks)
            self._folded = [_folded(self.conv1, self.bn1), stages]
            self._versions = versions
        return self._folded

    def _weight_versions(self) -> tuple[int, ...]:
        """Change when a weight is written in place, replaced or moved."""
        tensors = [t for t in self.state_dict(keep_vars=True).values() if t.is_floating_point()]
        return tuple(v for t in tensors for v in (t.data_ptr(), t._version))


class TimmFeatures(nn.Module):
    """A frozen timm network behind the same interface: its maps of strides 4 to 32.

    Raises:
        InputError: the network lacks one of the strides.
    """

    def __init__(self, trunk: TimmBackbone) -> None:
        super().__init__()
        self.trunk = trunk
        self.label = trunk.name
        self._levels = {f"layer{n}": f"res{n}" for n in range(2, 6)}
        shapes = trunk.output_shape()
        for level in self._levels.values():
            if level not in shapes:
                raise InputError(
                    f"MODEL.TIMM.NAME {trunk.name}: FRTM reads maps of strides 4, 8, 16 and 32, "
                    f"this network has {', '.join(str(s.stride) for s in shapes.values())}"
                )
        self.channels = {name: shapes[level].channels for name, level in self._levels.items()}

    def forward(self, x: Tensor, *, last: str = "layer5") -> dict[str, Tensor]:
        """Return the maps of normalised images (B, 3, H, W) up to ``last``."""
        wanted = LAYERS[: LAYERS.index(last) + 1]
        maps = self.trunk(x, [self._levels[name] for name in wanted])
        return {name: maps[self._levels[name]] for name in wanted}


def build_features(cfg: CfgNode) -> ResNetFeatures | TimmFeatures:
    """Return the trunk that a config names: ``MODEL.BACKBONE.NAME`` build_timm_backbone takes
    ``MODEL.TIMM``, anything else the paper's ResNet of ``MODEL.FRTM.DEPTH``."""
    if cfg.MODEL.BACKBONE.NAME == "build_timm_backbone":
        if cfg.MODEL.FRTM.BACKBONE_WEIGHTS:
            raise InputError(
                "MODEL.FRTM.BACKBONE_WEIGHTS is for ResNets; a timm network takes "
                "MODEL.TIMM.PRETRAINED"
            )
        trunk = build_trunk(cfg)
        if cfg.MODEL.TIMM.PIXELS == "network":
            trunk.reads(PIXEL_MEAN, PIXEL_STD)
        return TimmFeatures(trunk)
    backbone = ResNetFeatures(cfg.MODEL.FRTM.DEPTH)
    if path := cfg.MODEL.FRTM.BACKBONE_WEIGHTS:
        with own_weights_later(bool(cfg.MODEL.WEIGHTS)):
            bring_own_weights(backbone, partial(load_backbone, backbone, path))
    return backbone


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor, Any, Any]:
    with torch.no_grad():
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        weight = (conv.weight * scale[:, None, None, None]).contiguous(
            memory_format=torch.channels_last
        )
        return weight, norm.bias - norm.running_mean * scale, conv.stride, conv.padding


def _apply(conv: tuple[Tensor, Tensor, Any, Any], x: Tensor) -> Tensor:
    weight, bias, stride, padding = conv
    return F.conv2d(x, weight, bias, stride, padding)


def load_backbone(backbone: ResNetFeatures, path: str) -> None:
    """Load a torchvision ResNet's state dict, or the ``backbone.`` part of a checkpoint.

    Nothing in the file is executed.

    Raises:
        InputError: no such file, not a checkpoint, or weights of another ResNet.
    """
    try:
        state = read_weights(path).state
    except InputError as error:
        raise InputError(f"MODEL.FRTM.BACKBONE_WEIGHTS: {error}") from None
    if any(k.startswith("backbone.") for k in state):
        state = {k.removeprefix("backbone."): v for k, v in state.items()}
    own = backbone.state_dict()
    fits = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    missing = [k for k in own if k not in fits and "num_batches" not in k]
    if missing:
        raise InputError(
            f"MODEL.FRTM.BACKBONE_WEIGHTS {path}: not the weights of a ResNet-{backbone.depth} "
            f"({missing[0]} is missing or has another shape)"
        )
    backbone.load_state_dict(fits, strict=False)
