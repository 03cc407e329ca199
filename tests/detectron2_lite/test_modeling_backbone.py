"""Backbones: recorded keys, shapes and features, output selection, freezing, pyramid variants."""

from __future__ import annotations

import json

import fill
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import CNNBlockBase, FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_backbone
from detectron2.modeling.backbone import BasicStem, BottleneckBlock, ResNet
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from torch import nn


def resnet_cfg(depth: int, *outputs: str):
    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.OUT_FEATURES = list(outputs)
    if depth < 50:
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    return cfg


@pytest.mark.parametrize("depth", [18, 34])
def test_basic_resnets_as_recorded(golden, depth):
    model = build_backbone(resnet_cfg(depth, "stem", "res2", "res3", "res4", "res5")).eval()
    state = json.loads(golden(f"detectron2/state_resnet{depth}.json").read_text())
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == state["shapes"]
    frozen = {k for k, v in model.named_parameters() if not v.requires_grad}
    assert frozen == set(state["frozen_parameters"])

    fill.fill(model)
    image = fill.frames(12, 1, 96, 128)[0].astype(np.float32).transpose(2, 0, 1) / 64 - 2
    with torch.no_grad():
        outputs = model(torch.from_numpy(image)[None])
    reference = json.loads(golden("detectron2/resnet18_34_features.json").read_text())
    shapes = {k: [v.channels, v.stride] for k, v in model.output_shape().items()}
    assert shapes == reference[f"resnet{depth}:output_shape"]
    for name, expected in reference[f"resnet{depth}"].items():
        values = outputs[name]
        assert list(values.shape) == expected["shape"]
        at = np.linspace(0, values.numel() - 1, 48).round().astype(int)
        np.testing.assert_allclose(
            values.flatten()[at], expected["samples"], rtol=1e-3, atol=1e-3 * expected["absmax"]
        )


def test_gradient_path_equals_inference_path():
    """FrozenBN takes another formula when its input requires a gradient."""
    model = build_backbone(resnet_cfg(18, "res3"))
    fill.fill(model)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)["res3"]
    x.requires_grad_()
    got = model(x)["res3"]
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    got.sum().backward()
    assert x.grad is not None


def test_stages_beyond_the_last_output_are_not_built():
    model = build_backbone(resnet_cfg(50, "res3"))
    assert model.stage_names == ("res2", "res3") and not hasattr(model, "res4")
    only_stem = build_backbone(resnet_cfg(50, "stem"))
    assert list(only_stem(torch.zeros(1, 3, 32, 32))) == ["stem"]


@pytest.mark.parametrize("freeze_at", [0, 1, 2, 5])
def test_freeze_at(freeze_at):
    cfg = resnet_cfg(18, "res2", "res5")
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    model = build_backbone(cfg)
    for number, part in enumerate([model.stem, *model.stages], start=1):
        frozen = freeze_at >= number
        assert all(p.requires_grad != frozen for p in part.parameters())
        kinds = {type(m) for m in part.modules() if "BatchNorm" in type(m).__name__}
        assert kinds == ({FrozenBatchNorm2d} if frozen else {nn.BatchNorm2d})


def test_dilated_res5_keeps_the_stride():
    cfg = resnet_cfg(50, "res4", "res5")
    cfg.MODEL.RESNETS.RES5_DILATION = 2
    model = build_backbone(cfg)
    assert model.output_shape()["res5"].stride == 16
    out = model(torch.zeros(1, 3, 64, 64))
    assert out["res5"].shape[-2:] == out["res4"].shape[-2:]
    assert model.res5[0].conv2.dilation == (2, 2)


@pytest.mark.parametrize("in_1x1", [True, False])
def test_place_of_the_stride(in_1x1):
    cfg = resnet_cfg(50, "res3")
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = in_1x1
    block = build_backbone(cfg).res3[0]
    assert (block.conv1.stride, block.conv2.stride) == (((2, 2), (1, 1))[:: 1 if in_1x1 else -1])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (["MODEL.RESNETS.DEPTH", 19], ValueError),
        (["MODEL.RESNETS.RES2_OUT_CHANNELS", 256], ValueError),
        (["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, False, False, True]], NotImplementedError),
        (["MODEL.RESNETS.OUT_FEATURES", ["res6"]], ValueError),
        (["MODEL.RESNETS.NORM", "BatchNorm"], KeyError),
        (["MODEL.BACKBONE.NAME", "build_unknown_backbone"], KeyError),
    ],
)
def test_wrong_options_name_themselves(change, error):
    cfg = resnet_cfg(18, "res5")
    cfg.merge_from_list(change)
    with pytest.raises(error):
        build_backbone(cfg)


def test_make_stage_and_classifier():
    stages = ResNet.make_default_stages(50, norm="BN", stride_in_1x1=True)
    assert [len(s) for s in stages] == [3, 4, 6, 3]
    assert isinstance(stages[0][0], BottleneckBlock) and stages[3][0].out_channels == 2048
    small = ResNet.make_stage(
        BottleneckBlock,
        2,
        in_channels=64,
        out_channels=128,
        bottleneck_channels=16,
        stride_per_block=[2, 1],
    )
    assert [b.stride for b in small] == [2, 1]
    model = ResNet(BasicStem(3, 64), [small], num_classes=7)
    assert model(torch.zeros(2, 3, 32, 32))["linear"].shape == (2, 7)
    with pytest.raises(AssertionError):
        ResNet.make_stage(
            BottleneckBlock,
            2,
            in_channels=64,
            out_channels=64,
            bottleneck_channels=16,
            stride_per_block=[2],
        )


class Pyramid(Backbone):
    """Two maps of strides 4 and 8 by average pooling."""

    def __init__(self):
        super().__init__()
        self._out_features = ["a", "b"]
        self._out_feature_strides = {"a": 4, "b": 8}
        self._out_feature_channels = {"a": 3, "b": 3}

    def forward(self, x):
        pool = nn.functional.avg_pool2d
        return {"a": pool(x, 4), "b": pool(x, 8)}


@pytest.mark.parametrize("fuse", ["sum", "avg"])
def test_fpn_equals_its_formula(fuse):
    fpn = FPN(Pyramid(), ["a", "b"], 8, fuse_type=fuse, norm="")
    x = torch.randn(1, 3, 32, 48)
    maps, out = Pyramid()(x), fpn(x)
    top = fpn.fpn_lateral3(maps["b"])
    side = fpn.fpn_lateral2(maps["a"])
    merged = side + top.repeat_interleave(2, 2).repeat_interleave(2, 3)
    merged = merged / 2 if fuse == "avg" else merged
    torch.testing.assert_close(out["p2"], fpn.fpn_output2(merged))
    torch.testing.assert_close(out["p3"], fpn.fpn_output3(top))
    assert list(out) == ["p2", "p3"] and fpn.size_divisibility == 8
    assert fpn.output_shape()["p3"] == ShapeSpec(channels=8, stride=8)


@pytest.mark.lite
def test_fpn_norm_and_padding():
    fpn = FPN(Pyramid(), ["a", "b"], 32, norm="GN", square_pad=64)
    assert fpn.fpn_lateral2.bias is None and isinstance(fpn.fpn_output2.norm, nn.GroupNorm)
    assert fpn.padding_constraints == {"square_size": 64}
    with pytest.raises(AssertionError, match="fuse_type"):
        FPN(Pyramid(), ["a", "b"], 32, fuse_type="max")
    with pytest.raises(AssertionError, match="at least one"):
        FPN(Pyramid(), [], 32)


def test_extra_levels():
    p5 = torch.arange(25.0).view(1, 1, 5, 5)
    assert LastLevelMaxPool()(p5)[0].tolist() == p5[:, :, ::2, ::2].tolist()
    cfg = resnet_cfg(18, "res3", "res4", "res5")
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    model = build_backbone(cfg)
    out = model(torch.zeros(1, 3, 128, 128))
    assert {k: v.shape[-1] for k, v in out.items()} == {
        "p3": 16,
        "p4": 8,
        "p5": 4,
        "p6": 2,
        "p7": 1,
    }
    assert {k: v.stride for k, v in model.output_shape().items()} == {
        f"p{i}": 2**i for i in range(3, 8)
    }


def test_backbone_compiles_without_graph_breaks():
    cfg = resnet_cfg(18, "res2", "res3", "res4", "res5")
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    model = build_backbone(cfg)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    x = torch.randn(1, 3, 64, 64)
    for training in (True, False):
        model.train(training)
        with torch.set_grad_enabled(training):
            expected, got = model(x), compiled(x)
        assert list(got) == list(expected) == ["p2", "p3", "p4", "p5", "p6"]
        for name, value in expected.items():
            torch.testing.assert_close(got[name], value)


def test_registry_refuses_a_second_entry_and_foreign_backbones():
    @BACKBONE_REGISTRY.register()
    def build_lonely_module(cfg, input_shape):
        return nn.Identity()

    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_lonely_module"
    with pytest.raises(AssertionError):
        build_backbone(cfg)
    with pytest.raises(AssertionError):
        BACKBONE_REGISTRY.register(build_lonely_module)


def test_blocks_know_their_stride():
    block = BottleneckBlock(8, 16, bottleneck_channels=4, stride=2, num_groups=2)
    assert isinstance(block, CNNBlockBase) and block.stride == 2 and block.shortcut is not None
    assert BottleneckBlock(8, 8, bottleneck_channels=4).shortcut is None
