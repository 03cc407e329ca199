"""Packed convolutions: equal to the plain ones, and out of the way where they cannot help."""

from __future__ import annotations

import copy
import gc
import pickle

import pytest
import torch
import torchvision
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from vis_projects.modeling.backbones.packed_convolution import (
    PackedConv,
    available,
    pack,
    plain_convolutions,
)

pytestmark = [
    pytest.mark.numeric,
    pytest.mark.skipif(not available(), reason="this PyTorch has no oneDNN"),
]


def randomised(net: nn.Module) -> nn.Module:
    """Statistics that are not the initial ones, values that stay near one."""
    torch.manual_seed(0)
    for name, tensor in net.state_dict().items():
        if name.endswith(("running_var", "norm.weight", "bn1.weight", "bn2.weight")):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.1)
    return net.eval()


def backbone(depth: int, norm: str) -> nn.Module:
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.NORM = norm
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth == 18 else 256
    return randomised(build_backbone(cfg))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@torch.no_grad()
@pytest.mark.parametrize(("depth", "norm"), [(50, "FrozenBN"), (18, "BN"), (18, "GN")])
def test_backbones_give_the_same_maps(depth, norm):
    """1e-4 of the largest value: some fifty float32 convolutions, norms folded into weights."""
    net = backbone(depth, norm)
    pack(net)
    keys = list(net.state_dict())
    for size in ((65, 96), (64, 64), (33, 47)):
        x = torch.randn(2, 3, *((s + 31) // 32 * 32 for s in size))
        with plain_convolutions():
            wanted = net(x)
        found = net(x)
        assert found.keys() == wanted.keys()
        assert max(relative(found[k], wanted[k]) for k in wanted) < 1e-4
    assert list(net.state_dict()) == keys
    if norm != "GN":
        assert any("_Block" in type(m.__dict__.get("forward")).__name__ for m in net.modules())


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvision_blocks(name):
    net = randomised(torchvision.models.get_model(name, weights=None, norm_layer=FrozenBatchNorm2d))
    wanted = net(x := torch.randn(1, 3, 64, 96))
    pack(net)
    assert relative(net(x), wanted) < 1e-4


@torch.no_grad()
def test_weights_may_change_in_place_and_be_replaced():
    conv, norm = nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16)
    net = randomised(nn.Sequential(conv, norm))
    packed, x = PackedConv(conv, norm), torch.randn(1, 8, 12, 10)
    assert packed.takes(x)

    def replace() -> None:
        conv.weight = nn.Parameter(torch.randn(16, 8, 3, 3))

    for change in (
        lambda: conv.weight.mul_(3),
        lambda: norm.running_var.mul_(4),
        lambda: net.load_state_dict(randomised(copy.deepcopy(net)).state_dict()),
        replace,
    ):
        change()
        assert relative(packed(x), net(x)) < 1e-5
        assert relative(packed(x, relu=True), net(x).relu()) < 1e-5
        side = torch.randn(1, 16, 12, 10)
        assert relative(packed(x, relu=True, add=side.clone()), (net(x) + side).relu()) < 1e-5


@torch.no_grad()
def test_strides_dilation_groups_and_bfloat16():
    for options in ({"stride": 2}, {"dilation": 2, "padding": 2}, {"groups": 4}, {"bias": False}):
        conv = nn.Conv2d(8, 16, 3, **options).eval()
        packed, x = PackedConv(conv), torch.randn(2, 8, 15, 17)
        assert packed(x).shape == conv(x).shape and relative(packed(x), conv(x)) < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        assert packed(x).dtype == conv(x).dtype == torch.bfloat16
        assert relative(packed(x).float(), conv(x).float()) < 2e-2  # eight bits of mantissa


@torch.no_grad()
def test_weights_are_kept_once_per_format():
    """The packed weight of a frame serves the next ones; no dense copy of it stays alive."""
    net = backbone(18, "BN")
    pack(net)
    counts = []
    for _ in range(3):
        net(torch.randn(1, 3, 64, 64))
        gc.collect()
        alive = [t for t in gc.get_objects() if type(t) is torch.Tensor]
        counts.append((sum(t.is_mkldnn for t in alive), sum(t.dim() == 4 for t in alive)))
    convs = sum(isinstance(m, nn.Conv2d) for m in net.modules())
    assert counts[0] == counts[1] == counts[2] and counts[0][0] >= convs


@torch.no_grad()
def test_other_devices_and_traces_are_left_alone():
    conv = nn.Conv2d(3, 4, 3).eval().requires_grad_(False)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert not PackedConv(conv).takes(torch.zeros(1, 3, 8, 8))
    assert not PackedConv(conv).takes(torch.zeros(1, 3, 8, 8, device="meta"))
    x = torch.zeros(1, 3, 8, 8)
    graph, *_ = torch.jit._get_trace_graph(PackedConv(conv), x)  # what counters of operations read
    assert "aten::_convolution" in str(graph) and "mkldnn::" not in str(graph)
    assert PackedConv(conv).takes(x)


def test_what_is_trained_or_traced_runs_as_written():
    net = backbone(18, "BN").train()
    pack(net)
    x = torch.randn(2, 3, 64, 64)
    sum(v.sum() for v in net(x).values()).backward()
    assert all(p.grad is not None for p in net.parameters())
    net.eval()
    with torch.no_grad():
        assert net(x)["p2"].dtype == torch.float32
        copied, again = copy.deepcopy(net), pickle.loads(pickle.dumps(net))
        for other in (copied, again):
            with plain_convolutions():
                wanted = other(x)["p2"]
            assert relative(other(x)["p2"], wanted) < 1e-4
        wide = copy.deepcopy(net).double()
        assert wide(x.double())["p2"].dtype == torch.float64
        copied.bottom_up.stem.conv1.weight.zero_()  # a copy has weights of its own
        assert relative(net(x)["p2"], again(x)["p2"]) < 1e-6
        program = torch.export.export(net, (x,), strict=False)
        assert "mkldnn" not in str(program.graph)
