"""ResNet 18 to 152 and ResNeXt (He et al. 2016; Xie et al. 2017), with Detectron2's key names."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F

from .backbone import Backbone
from .build import BACKBONE_REGISTRY

__all__ = [
    "BasicBlock",
    "BasicStem",
    "BottleneckBlock",
    "ResNet",
    "build_resnet_backbone",
]

_STAGE_NAMES = ("res2", "res3", "res4", "res5")
_BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class BasicStem(CNNBlockBase):
    """7x7 convolution of stride 2, norm, ReLU, 3x3 max-pool of stride 2."""

    def __init__(self, in_channels: int = 3, out_channels: int = 64, norm="BN"):
        super().__init__(in_channels, out_channels, 4)
        self.conv1 = _conv(in_channels, out_channels, kernel=7, stride=2, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu_(self.conv1(x)), kernel_size=3, stride=2, padding=1)


class BasicBlock(CNNBlockBase):
    """Two 3x3 convolutions (ResNet-18 and -34)."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, norm="BN"):
        super().__init__(in_channels, out_channels, stride)
        self.shortcut = _shortcut(in_channels, out_channels, stride=stride, norm=norm)
        self.conv1 = _conv(in_channels, out_channels, kernel=3, stride=stride, norm=norm)
        self.conv2 = _conv(out_channels, out_channels, kernel=3, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu_(self.conv1(x)))
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


class BottleneckBlock(CNNBlockBase):
    """1x1, 3x3 (grouped, dilated) and 1x1 convolutions (ResNet-50 and deeper, ResNeXt)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        stride: int = 1,
        num_groups: int = 1,
        norm="BN",
        stride_in_1x1: bool = False,
        dilation: int = 1,
    ):
        """``stride_in_1x1``: the stride sits on the first convolution (MSRA weights)."""
        super().__init__(in_channels, out_channels, stride)
        width = bottleneck_channels
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.shortcut = _shortcut(in_channels, out_channels, stride=stride, norm=norm)
        self.conv1 = _conv(in_channels, width, kernel=1, stride=first, norm=norm)
        self.conv2 = _conv(
            width,
            width,
            kernel=3,
            stride=second,
            norm=norm,
            groups=num_groups,
            dilation=dilation,
        )
        self.conv3 = _conv(width, out_channels, kernel=1, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(self.conv1(x))
        out = self.conv3(F.relu_(self.conv2(out)))
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


def _conv(
    in_channels: int,
    out_channels: int,
    *,
    kernel: int,
    norm,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
) -> Conv2d:
    """A bias-free convolution that keeps the size at stride 1, with its norm, MSRA-initialised."""
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel,
        stride=stride,
        padding=dilation * (kernel // 2),
        dilation=dilation,
        groups=groups,
        bias=False,
        norm=get_norm(norm, out_channels),
    )
    weight_init.c2_msra_fill(conv)
    return conv


def _shortcut(in_channels: int, out_channels: int, *, stride: int, norm) -> Conv2d | None:
    """The projection of the residual branch; none where the channels stay (then stride is 1)."""
    if in_channels == out_channels:
        return None
    return _conv(in_channels, out_channels, kernel=1, stride=stride, norm=norm)


class ResNet(Backbone):
    """A stem and stages ``res2`` .. ``res5``; any of them, ``stem``, ``linear`` can be output."""

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[Sequence[CNNBlockBase]],
        num_classes: int | None = None,
        out_features: Sequence[str] | None = None,
        freeze_at: int = 0,
    ):
        """``out_features``: default the last stage, or ``linear`` with ``num_classes``.

        Stages beyond the last output are left out. ``freeze_at``: see ``freeze``.
        Raises ValueError for an output that does not exist.
        """
        super().__init__()
        if out_features is not None:
            stages = stages[: _deepest_stage(out_features, len(stages))]
        self.stem = stem
        self.num_classes = num_classes
        self.stage_names = tuple(_STAGE_NAMES[: len(stages)])
        self.stages = []
        self._out_feature_strides = {"stem": stem.stride}
        self._out_feature_channels = {"stem": stem.out_channels}
        stride, channels = stem.stride, stem.out_channels
        for name, blocks in zip(self.stage_names, stages):
            assert len(blocks) > 0, f"stage {name} has no blocks"
            for block in blocks:
                assert isinstance(block, CNNBlockBase), block
                stride *= block.stride
            channels = blocks[-1].out_channels
            stage = nn.Sequential(*blocks)
            self.add_module(name, stage)
            self.stages.append(stage)
            self._out_feature_strides[name] = stride
            self._out_feature_channels[name] = channels
        if num_classes is not None:
            self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
            self.linear = nn.Linear(channels, num_classes)
            nn.init.normal_(self.linear.weight, std=0.01)
        last = "linear" if num_classes is not None else (("stem",) + self.stage_names)[-1]
        self._out_features = [last] if out_features is None else list(out_features)
        known = {"stem", *self.stage_names} | ({"linear"} if num_classes is not None else set())
        if not self._out_features or not set(self._out_features) <= known:
            raise ValueError(f"out_features {self._out_features}: available are {sorted(known)}")
        self.freeze(freeze_at)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map images (N, C, H, W) to the chosen outputs."""
        assert x.dim() == 4, f"ResNet takes (N, C, H, W), not {tuple(x.shape)}"
        outputs = {}
        x = self.stem(x)
        if "stem" in self._out_features:
            outputs["stem"] = x
        for name, stage in zip(self.stage_names, self.stages):
            x = stage(x)
            if name in self._out_features:
                outputs[name] = x
        if "linear" in self._out_features:
            outputs["linear"] = self.linear(self.avgpool(x).flatten(1))
        return outputs

    def freeze(self, freeze_at: int = 0) -> ResNet:
        """Freeze the stem (1 and up) and the stages up to ``res{freeze_at}``; returns itself."""
        if freeze_at >= 1:
            self.stem.freeze()
        for number, stage in enumerate(self.stages, start=2):
            if freeze_at >= number:
                for block in stage.children():
                    block.freeze()
        return self

    @staticmethod
    def make_stage(
        block_class: type[CNNBlockBase],
        num_blocks: int,
        *,
        in_channels: int,
        out_channels: int,
        **kwargs,
    ) -> list[CNNBlockBase]:
        """Build the blocks of one stage.

        A keyword ``x_per_block=[..]`` gives block i its own ``x``; other keywords go to all.
        """
        blocks = []
        for i in range(num_blocks):
            own = {}
            for key, value in kwargs.items():
                if key.endswith("_per_block"):
                    name = key[: -len("_per_block")]
                    assert len(value) == num_blocks, f"{key} must have {num_blocks} elements"
                    assert name not in kwargs, f"give {name} or {key}, not both"
                    own[name] = value[i]
                else:
                    own[key] = value
            blocks.append(block_class(in_channels, out_channels, **own))
            in_channels = out_channels
        return blocks

    @staticmethod
    def make_default_stages(
        depth: int, block_class: type[CNNBlockBase] | None = None, **kwargs
    ) -> list[list[CNNBlockBase]]:
        """The four stages of the ResNet of that depth; ``kwargs`` go to every block."""
        if block_class is None:
            block_class = BasicBlock if depth < 50 else BottleneckBlock
        stages, in_channels = [], 64
        for i, num_blocks in enumerate(_BLOCKS_PER_STAGE[depth]):
            own = dict(kwargs)
            if depth < 50:
                out_channels = 64 * 2**i
            else:
                out_channels = 256 * 2**i
                own["bottleneck_channels"] = out_channels // 4
            stride = 1 if i == 0 else 2
            stages.append(
                ResNet.make_stage(
                    block_class,
                    num_blocks,
                    stride_per_block=[stride] + [1] * (num_blocks - 1),
                    in_channels=in_channels,
                    out_channels=out_channels,
                    **own,
                )
            )
            in_channels = out_channels
        return stages


def _deepest_stage(out_features: Sequence[str], default: int) -> int:
    """How many stages the outputs need; all of them for ``linear``."""
    if "linear" in out_features:
        return default
    return max((_STAGE_NAMES.index(f) + 1 for f in out_features if f in _STAGE_NAMES), default=0)


@BACKBONE_REGISTRY.register()
def build_resnet_backbone(cfg, input_shape: ShapeSpec) -> ResNet:
    """Build a ResNet from ``cfg.MODEL.RESNETS`` and ``cfg.MODEL.BACKBONE.FREEZE_AT``.

    Raises ValueError for combinations that no ResNet of that depth has, NotImplementedError for
    deformable convolutions.
    """
    options = cfg.MODEL.RESNETS
    norm, depth, dilation = options.NORM, options.DEPTH, options.RES5_DILATION
    if depth not in _BLOCKS_PER_STAGE:
        raise ValueError(f"MODEL.RESNETS.DEPTH {depth}: choose one of {list(_BLOCKS_PER_STAGE)}")
    if any(options.DEFORM_ON_PER_STAGE):
        raise NotImplementedError("MODEL.RESNETS.DEFORM_ON_PER_STAGE: not in this Detectron2")
    if dilation not in (1, 2):
        raise ValueError(f"MODEL.RESNETS.RES5_DILATION must be 1 or 2, not {dilation}")
    basic = depth < 50
    if basic and (options.RES2_OUT_CHANNELS != 64 or dilation != 1 or options.NUM_GROUPS != 1):
        raise ValueError(
            f"ResNet-{depth} needs MODEL.RESNETS.RES2_OUT_CHANNELS 64, RES5_DILATION 1 "
            "and NUM_GROUPS 1"
        )
    stem = BasicStem(input_shape.channels, options.STEM_OUT_CHANNELS, norm)
    in_channels, stages = options.STEM_OUT_CHANNELS, []
    for i in range(_deepest_stage(options.OUT_FEATURES, 4)):
        num_blocks = _BLOCKS_PER_STAGE[depth][i]
        dilated = i == 3 and dilation == 2
        stride = 1 if i == 0 or dilated else 2
        block_options = {}
        if not basic:
            block_options = {
                "bottleneck_channels": options.NUM_GROUPS * options.WIDTH_PER_GROUP * 2**i,
                "num_groups": options.NUM_GROUPS,
                "stride_in_1x1": options.STRIDE_IN_1X1,
                "dilation": dilation if dilated else 1,
            }
        out_channels = options.RES2_OUT_CHANNELS * 2**i
        stages.append(
            ResNet.make_stage(
                BasicBlock if basic else BottleneckBlock,
                num_blocks,
                in_channels=in_channels,
                out_channels=out_channels,
                stride_per_block=[stride] + [1] * (num_blocks - 1),
                norm=norm,
                **block_options,
            )
        )
        in_channels = out_channels
    return ResNet(
        stem,
        stages,
        out_features=options.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )
