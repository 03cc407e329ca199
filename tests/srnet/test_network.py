"""Decoder and heads against recorded outputs; size and cost of the whole network."""

from __future__ import annotations

import fill
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from fvcore.nn import FlopCountAnalysis
from torch.nn import functional as F

from vis_projects.config import load_config
from vis_projects.engine.model_average import ModelAverage
from vis_projects.srnet.decoder import Decoder, Heads, TwoFrameConv


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = Decoder()
        self.heads = Heads(128, num_classes=5)


@pytest.fixture(scope="module")
def network() -> Network:
    network = Network().eval()
    fill.fill(network)
    return network


@pytest.fixture
def recorded(golden):
    return np.load(golden("srnet/decoder.npz"))


def inputs(recorded) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(int(recorded["seed"]))
    h, w = (int(n) for n in recorded["shape5"])

    def draw(k: int) -> torch.Tensor:
        shape = (256, h << (5 - k), w << (5 - k))
        return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))[None]

    features = {f"p{k}": draw(k) for k in (2, 3, 4, 5)}
    previous = draw(5)
    heat_map = torch.from_numpy(rng.random((1, h * 8, w * 8)).astype(np.float32))[None]
    return features, previous, heat_map


@torch.no_grad()
def test_recorded_outputs(network, recorded):
    features, previous, heat_map = inputs(recorded)
    block1 = network.decoder.block1(previous, features["p5"])[0]
    assert np.abs(block1.numpy() - recorded["block1"]).max() < 1e-4
    x = network.decoder(features, previous)
    assert np.abs(x[0, :16].numpy() - recorded["x_head"]).max() < 1e-4
    raw = network.heads(x, heat_map)
    for name, value in raw.items():
        assert np.abs(value[0].numpy() - recorded[f"raw_{name}"]).max() < 1e-4, name


@pytest.mark.usefixtures("float64")
@torch.no_grad()
def test_heads_at_single_cells_equal_the_map(network, recorded):
    features, previous, heat_map = inputs(recorded)
    x = network.decoder(features, previous)
    raw = network.heads(x, heat_map)
    h, w = raw["bandwidth"].shape[-2:]
    cells = torch.tensor([0, w - 1, w, h * w - 1, h * w - w, 12 * w + w // 2, 7 * (w - 1)])
    at = network.heads.bandwidth.at(F.pad(x[0], (1, 1, 1, 1)), cells)
    torch.testing.assert_close(at.T, raw["bandwidth"][0].flatten(1)[:, cells], atol=1e-5, rtol=1e-5)
    both = F.pad(torch.cat([x, heat_map], 1)[0], (1, 1, 1, 1))
    at = network.heads.tracking.at(both, cells)
    torch.testing.assert_close(at.T, raw["tracking"][0].flatten(1)[:, cells], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_heat_map_changes_tracking_only(network, recorded):
    features, previous, heat_map = inputs(recorded)
    x = network.decoder(features, previous)
    with_map, without = network.heads(x, heat_map), network.heads(x)
    changed = {name for name in with_map if not torch.equal(with_map[name], without[name])}
    assert changed == {"tracking"}
    lazy = network.heads(x, lazy=True)
    assert set(lazy) == {"offset", "objectness", "category"}
    assert all(torch.equal(lazy[name], with_map[name]) for name in lazy)


@pytest.mark.usefixtures("float64")
@torch.no_grad()
def test_two_frame_conv_is_the_3d_convolution():
    conv = TwoFrameConv(5, 7)
    weight = conv.state_dict()["weight"]
    assert weight.shape == (7, 5, 2, 3, 3)
    previous, current = torch.randn(2, 1, 5, 6, 8)
    stacked = torch.stack([previous, current], dim=2)
    expected = F.conv3d(stacked, weight, padding=(0, 1, 1))[:, :, 0]
    torch.testing.assert_close(conv(previous, current), expected, atol=1e-5, rtol=1e-5)
    other = TwoFrameConv(5, 7)
    other.load_state_dict(conv.state_dict())
    assert torch.equal(other.weight, conv.weight)
    other.to(memory_format=torch.channels_last)
    assert torch.equal(other.state_dict()["weight"], weight)


def test_the_moving_average_is_stored_in_the_same_form():
    conv = TwoFrameConv(5, 7)
    average = ModelAverage(conv, decay=0.5, warmup=False)
    before = conv.state_dict()["weight"].clone()
    with torch.no_grad():
        conv.weight += 1
    average.update()
    stored = average.model_state()["weight"]
    assert stored.shape == before.shape == (7, 5, 2, 3, 3)
    assert torch.allclose(stored, before + 0.5) and torch.allclose(
        conv.state_dict()["weight"], before + 1
    )


class Step(torch.nn.Module):
    """One frame of SRNet with the previous frame's p5 at hand."""

    def __init__(self, model) -> None:
        super().__init__()
        self.backbone, self.decoder, self.heads = model.backbone, model.decoder, model.heads

    def forward(self, image, previous, heat_map):
        x = self.decoder(self.backbone(image), previous)
        return tuple(self.heads(x, heat_map).values())


COSTS = {  # name: millions of parameters, GMAC of the whole, of bottom-up
    "R50_davis2019": (30.49, 80.9, 32.05),
    "R101_davis2019": (49.43, 111.7, 62.81),
}


@pytest.mark.parametrize("name", COSTS)
@torch.no_grad()
def test_parameters_and_multiply_adds(name):
    """Counted at 32 x 32 and scaled: every operation's cost is proportional to the area."""
    parameters, total, bottom_up = COSTS[name]
    with torch.device("meta"):  # no time for initial values that do not matter
        cfg = load_config(f"configs/srnet/{name}.yaml", ["MODEL.DEVICE", "meta"])
        model = build_model(cfg).to_empty(device="cpu").eval()
    step = Step(model)
    inputs = torch.zeros(1, 3, 32, 32), torch.zeros(1, 256, 1, 1), torch.zeros(1, 1, 8, 8)
    count = FlopCountAnalysis(step, inputs)
    count.unsupported_ops_warnings(False)
    scale = 480 * 864 / 32**2 / 1e9
    cost = {name: value * scale for name, value in count.by_module().items()}
    assert sum(p.numel() for p in step.parameters()) / 1e6 == pytest.approx(parameters, abs=0.005)
    assert cost[""] == pytest.approx(total, abs=0.05)
    assert cost["backbone.bottom_up"] == pytest.approx(bottom_up, abs=0.005)
    assert cost["backbone"] - cost["backbone.bottom_up"] == pytest.approx(23.50, abs=0.005)
    for block, expected in enumerate((0.48, 1.91, 3.83, 11.48), 1):
        assert cost[f"decoder.block{block}"] == pytest.approx(expected, abs=0.005)
    assert cost["heads"] == pytest.approx(7.67, abs=0.005)


def test_category_head_parameters_and_cost():
    head = Heads(128, num_classes=40).category
    assert sum(p.numel() for p in head.parameters()) == 76_392  # 0.076 M
    count = FlopCountAnalysis(head, torch.zeros(1, 128, 8, 8))
    assert count.total() * 120 * 216 / 64 / 1e9 == pytest.approx(1.98, abs=0.005)


@torch.no_grad()
def test_normalised_levels_let_the_previous_frame_through():
    """Pyramid levels as loud as trained ones (mean |p2 .. p5| 3.2 .. 1.2) mute stride 32."""
    generator = torch.Generator().manual_seed(1)
    loudness = {"p2": 4.0, "p3": 2.6, "p4": 2.2, "p5": 1.5}
    features = {
        level: gain * torch.randn((1, 64, 96 >> k, 128 >> k), generator=generator)
        for k, (level, gain) in enumerate(loudness.items())
    }
    other = 1.5 * torch.randn(features["p5"].shape, generator=generator)
    reaction = {}
    for norm in ("", "GN"):
        torch.manual_seed(0)
        decoder = Decoder(64, (64, 64, 48, 32), groups=8, level_norm=norm)
        x = decoder(features, features["p5"])
        reaction[norm] = ((decoder(features, other) - x).norm() / x.norm()).item()
        louder = {level: 7 * value for level, value in features.items()}
        same = torch.allclose(decoder(louder, louder["p5"]), x, atol=1e-4)
        assert same == (norm == "GN")  # the levels' loudness no longer matters
    assert reaction["GN"] > 2 * reaction[""], reaction


def test_levels_are_normalised_in_the_quickstart_and_not_in_the_papers_rows():
    names = ("quickstart_synthetic", "R101_davis2019", "R101_literal_ytvis2019")
    found = [load_config(f"configs/srnet/{n}.yaml").MODEL.SRNET.LEVEL_NORM for n in names]
    assert found == ["GN", "", ""]
