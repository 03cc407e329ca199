"""The Swin backbone against recorded features of the official one."""

from __future__ import annotations

import json

import fill
import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec

from vis_projects import get_cfg
from vis_projects.modeling.backbones.swin import (
    SIZES,
    SwinTransformer,
    build_swin_backbone,
    build_swin_fpn_backbone,
)
from vis_projects.structures import InputError


def _tiny(**options) -> SwinTransformer:
    return SwinTransformer(8, (2, 2, 2, 2), (1, 2, 2, 4), **options)


@pytest.fixture(scope="module")
def swin_b() -> SwinTransformer:
    embed_dim, depths, heads = SIZES["B"]
    net = SwinTransformer(embed_dim, depths, heads, drop_path=0.3).eval()
    state = {
        k: torch.from_numpy(fill.values(k, tuple(v.shape))) for k, v in net.state_dict().items()
    }
    net.load_state_dict(state)
    return net


def test_keys_are_the_official_ones(golden, swin_b):
    keys = json.loads(golden("swin/official_keys.json").read_text())["keys"]
    official = {k: tuple(v[0]) for k, v in keys.items() if not k.endswith("position_index")}
    assert {k: tuple(v.shape) for k, v in swin_b.state_dict().items()} == official


@pytest.mark.parametrize("case", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_features_equal_the_recorded_ones(golden, swin_b, case):
    recorded = np.load(golden("swin/swin_b_features.npz"))
    h, w, seed = recorded[f"s{case}_size_seed"]
    image = fill.frames(int(seed), 1, h, w)[0].astype(np.float32)
    image = (image - (123.675, 116.28, 103.53)) / (58.395, 57.12, 57.375)
    with torch.no_grad():
        maps = swin_b(torch.from_numpy(image).float().permute(2, 0, 1)[None])
    for k in range(4):
        x = maps[f"p{k}"][0]
        channels = recorded[f"s{case}_stage{k}_channels"]
        np.testing.assert_allclose(x[channels], recorded[f"s{case}_stage{k}"], atol=1e-4, rtol=0)
        np.testing.assert_allclose(
            x.mean((1, 2)), recorded[f"s{case}_stage{k}_mean"], atol=1e-4, rtol=0
        )
        np.testing.assert_allclose(
            x.std((1, 2), correction=0), recorded[f"s{case}_stage{k}_std"], atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("size", [(1, 1), (4, 200), (33, 61)])
def test_any_size_gives_halved_maps(size):
    maps = _tiny()(torch.zeros(1, 3, *size))
    h, w = (-(-n // 4) for n in size)
    for k in range(4):
        assert maps[f"p{k}"].shape == (1, 8 << k, h, w)
        h, w = -(-h // 2), -(-w // 2)


def test_drop_path_grows_linearly_and_rests_in_evaluation():
    net = _tiny(drop_path=0.7)
    rates = [block.drop_path for layer in net.layers for block in layer.blocks]
    np.testing.assert_allclose(rates, np.linspace(0, 0.7, 8), atol=1e-6)
    x = torch.rand(1, 3, 40, 40)
    net.eval()
    assert torch.equal(net(x)["p3"], net(x)["p3"])


@pytest.mark.usefixtures("float64")
def test_images_of_a_batch_do_not_mix():
    net = _tiny().eval()
    x = torch.rand(2, 3, 60, 44)
    with torch.no_grad():
        both, alone = net(x)["p3"][1], net(x[1:])["p3"][0]
    torch.testing.assert_close(both, alone)


def test_builders_and_unknown_names():
    cfg = get_cfg()
    cfg.MODEL.SWIN.SIZE = ""
    cfg.MODEL.SWIN.EMBED_DIM, cfg.MODEL.SWIN.HEADS = 8, (1, 2, 2, 4)
    cfg.MODEL.SWIN.DEPTHS = (1, 1, 2, 1)
    cfg.MODEL.FPN.IN_FEATURES = ["p0", "p1", "p2", "p3"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    fpn = build_swin_fpn_backbone(cfg, ShapeSpec(channels=3))
    assert fpn.size_divisibility == 32
    maps = fpn(torch.zeros(1, 3, 64, 96))
    assert {k: v.shape[-2:] for k, v in maps.items()} == {
        f"p{k}": (64 >> k, -(-96 >> k)) for k in range(2, 7)
    }
    cfg.MODEL.SWIN.SIZE = "H"
    with pytest.raises(InputError, match="MODEL.SWIN.SIZE 'H'"):
        build_swin_backbone(cfg, ShapeSpec(channels=3))
    with pytest.raises(InputError, match="OUT_FEATURES"):
        _tiny(out_features=("res5",))
