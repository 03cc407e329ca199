"""Features, segmentation network and merging against recorded figures."""

from __future__ import annotations

import importlib.util
import json

import fill
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vis_projects.frtm.backbone import ResNetFeatures
from vis_projects.frtm.merging import merge, plane_labels
from vis_projects.frtm.segmentation_network import (
    Head,
    SegmentationNetwork,
    last_enlargement,
)
from vis_projects.modeling.backbones.packed_convolution import available, plain_convolutions

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
CHANNELS = {"layer2": 64, "layer3": 128, "layer4": 256, "layer5": 512}  # ResNet-18


def filled(module: torch.nn.Module, prefix: str = "") -> torch.nn.Module:
    """Fill every entry by the name it has in the recorded state dict."""
    state = {
        k: torch.from_numpy(fill.values(prefix + k, tuple(v.shape)).copy()).to(v.dtype)
        for k, v in module.state_dict().items()
    }
    module.load_state_dict(state)
    return module.eval()


@pytest.fixture
def inputs(golden):
    spec = importlib.util.spec_from_file_location("frtm_inputs", golden("frtm/inputs.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("depth", [18, pytest.param(101, marks=pytest.mark.slow)])
@torch.no_grad()
def test_features(golden, depth):
    data = np.load(golden("frtm/features.npz"))
    seed, h, w = (int(v) for v in data["setting"])
    image = torch.from_numpy(fill.frames(seed, 1, h, w)[0]).permute(2, 0, 1).float()
    features = filled(ResNetFeatures(depth))(((image / 255 - MEAN) / STD)[None])
    for name, got in features.items():
        prefix = f"resnet{depth}/{name}"
        assert tuple(got.shape[1:]) == tuple(data[f"{prefix}/shape"])
        corner = data[f"{prefix}/corner"]
        scale = np.abs(data[f"{prefix}/mean_std_max"]).max()
        assert np.abs(got[0, :8, :2, :3].numpy() - corner).max() < 1e-4 * scale
        stats = [got.mean().item(), got.std(correction=0).item(), got.max().item()]
        assert np.abs(stats - data[f"{prefix}/mean_std_max"]).max() < 1e-4 * scale


@pytest.mark.usefixtures("float64")
@torch.no_grad()
def test_folded_features_follow_the_weights():
    net = filled(ResNetFeatures(18))
    x = torch.randn(1, 3, 33, 47)

    def plain(name):
        return net._trained(x, ("layer2", "layer3", "layer4", "layer5"))[name]

    for _ in range(2):
        got = net(x)
        assert [tuple(v.shape[-2:]) for v in got.values()] == [(9, 12), (5, 6), (3, 3), (2, 2)]
        for name, value in got.items():
            assert (value - plain(name)).abs().max() < 1e-10 * plain(name).abs().max()
        net.layer2[0].bn1.running_var.mul_(2)
        net.load_state_dict({k: v * 1.01 for k, v in net.state_dict().items()})
    assert list(net(x, last="layer4")) == ["layer2", "layer3", "layer4"]


@pytest.mark.recorded_cases("index", "frtm/segnet.npz", r"case(\d+)/setting")
@pytest.mark.parametrize("head", ["bicubic_bilinear", "bicubic"])
@torch.no_grad()
def test_logits(golden, inputs, index, head):
    data = np.load(golden("frtm/segnet.npz"))
    h, w, n, seed = (int(v) for v in data[f"case{index}/setting"])
    depth = int(str(data[f"case{index}/backbone"])[1:])
    channels = {k: v * (1 if depth == 18 else 4) for k, v in CHANNELS.items()}
    features, scores = inputs.segnet_inputs(seed, channels, h, w, n)
    features = {k: torch.from_numpy(v) for k, v in features.items()}
    network = filled(SegmentationNetwork(channels, head=head), "refiner.")
    stages = {}
    for kind in ("TSE", "RRB1", "CAB", "RRB2"):
        for layer, block in getattr(network, kind).items():
            block.register_forward_hook(
                lambda _, __, out, name=f"{kind}.{layer}": stages.update(
                    {name: out[0] if isinstance(out, tuple) else out}
                )
            )
    logits = network(torch.from_numpy(scores), features, (h, w))
    wanted = data[f"case{index}/{'main' if head == 'bicubic_bilinear' else 'ytvos'}/logits"]
    assert np.abs(logits.numpy() - wanted).max() < 1e-4
    for name, (mean, std) in zip(
        data[f"case{index}/stage_names"], data[f"case{index}/stage_mean_std"]
    ):
        stage = stages[str(name)]
        assert stage.mean().item() == pytest.approx(mean, rel=1e-3, abs=1e-4)
        assert stage.std(correction=0).item() == pytest.approx(std, rel=1e-2, abs=1e-4)


@pytest.mark.parametrize("depth,count", [(18, 1_226_129), (101, 1_410_449)])
def test_official_state_dict(golden, depth, count):
    channels = {k: v * (1 if depth == 18 else 4) for k, v in CHANNELS.items()}
    network = SegmentationNetwork(channels)
    official = json.loads(golden(f"frtm/official_keys_r{depth}.json").read_text())
    ours = {f"refiner.{k}": list(v.shape) for k, v in network.state_dict().items()}
    assert ours == {k: shape for k, (shape, _) in official.items()}
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.usefixtures("float64")
@torch.no_grad()
def test_objects_share_a_frame():
    """Objects batched over one frame's features equal one after the other."""
    network = filled(SegmentationNetwork(CHANNELS), "refiner.")
    shapes = {"layer2": (10, 13), "layer3": (5, 7), "layer4": (3, 4), "layer5": (2, 2)}
    channels = CHANNELS
    features = {k: torch.rand(1, channels[k], *s) for k, s in shapes.items()}
    scores = torch.randn(3, 1, 3, 4)
    together = network(scores, features, (39, 50))
    alone = torch.cat([network(s[None], features, (39, 50)) for s in scores])
    assert (together - alone).abs().max() < 1e-10
    repeated = {k: v.expand(3, -1, -1, -1) for k, v in features.items()}
    assert (together - network(scores, repeated, (39, 50))).abs().max() < 1e-10


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("mode", ["bicubic_bilinear", "bicubic"])
@pytest.mark.parametrize(
    "cells, layout",
    [((10, 13), torch.contiguous_format), ((35, 70), torch.channels_last)],
    ids=["one band", "bands, channels last"],
)
@torch.no_grad()
def test_head_equals_its_definition(mode, cells, layout):
    head = filled(Head(mode), "refiner.project.")
    size = (4 * cells[0] - 2, 4 * cells[1] - 1)
    x = torch.randn(2, 64, *cells).contiguous(memory_format=layout)
    up = F.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False)
    up = F.relu(head.conv1(up))
    if mode == "bicubic":
        up = F.interpolate(up, size, mode="bicubic", align_corners=False)
    else:
        up = F.interpolate(up, scale_factor=2, mode="bicubic", align_corners=False)
        up = F.interpolate(up, size, mode="bilinear", align_corners=False)
    assert (head(x, size) - head.conv2(up)).abs().max() < 1e-10


@pytest.mark.usefixtures("float64")
def test_training_and_inference_agree_on_the_residual_block():
    network = filled(SegmentationNetwork(CHANNELS), "refiner.")
    block, x = network.RRB1["layer2"], torch.randn(2, 64, 5, 6)
    folded = block(x)
    block.training = True  # the blocks inside stay in eval mode: running statistics
    assert (block(x) - folded).abs().max() < 1e-10


@torch.no_grad()
def test_packed_convolutions_give_the_same_logits():
    """Packed and plain sums differ in their order: float32, 1e-4 of the largest logit."""
    network = filled(SegmentationNetwork(CHANNELS), "refiner.").eval()
    shapes = {"layer2": (34, 41), "layer3": (17, 21), "layer4": (9, 11), "layer5": (5, 6)}
    features = {k: torch.rand(1, CHANNELS[k], *s) for k, s in shapes.items()}
    scores = torch.randn(3, 1, 9, 11)
    packed = network(scores, features, (133, 162))
    assert network.RRB1["layer2"]._branch[0]._packed or not available()
    with plain_convolutions():
        plain = network(scores, features, (133, 162))
    assert (packed - plain).abs().max() < 1e-4 * plain.abs().max()


@pytest.mark.recorded_cases("name", "frtm/merge.npz", r"(n\d+/(?:plain|late))/logits")
def test_merging(golden, name):
    data = np.load(golden("frtm/merge.npz"))
    p = torch.sigmoid(torch.from_numpy(data[f"{name}/logits"]))
    if "late" in name:
        start = torch.from_numpy(data[f"{name}/new_mask"]).bool()
        p = torch.cat([p * ~start, start[None].float()])
    planes = merge(p)
    assert np.abs(planes.numpy() - data[f"{name}/masks"]).max() < 1e-4
    ids = np.concatenate([[0], data[f"{name}/object_ids"]])
    for passes, key in ((2, "labels"), (1, "labels_single_pass")):
        got = ids[plane_labels(planes, passes=passes).numpy()]
        wanted = data[f"{name}/{key}"]
        odds = np.sort(planes.numpy(), 0)
        different = got != wanted
        assert different.sum() == 0, (passes, different.sum(), odds[-1][different][:5])


def test_no_object_is_all_background():
    planes = torch.ones(1, 4, 5)
    assert (plane_labels(planes, passes=2) == 0).all()


def test_bfloat16_works_where_the_frame_is_no_multiple_of_the_stride():
    last_enlargement.cache_clear()
    head = Head("bicubic_bilinear")
    x = torch.randn(1, 64, 6, 9, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            half = head(x, (23, 34))
        full = head(x, (23, 34))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, atol=0.05, rtol=0.05)
