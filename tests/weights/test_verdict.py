"""What may run and train with which weights; parts that bring their own; missing starts."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from vis_projects.config import load_config
from vis_projects.modeling.backbones import timm_classifier
from vis_projects.structures import InputError
from vis_projects.weights import (
    bring_own_weights,
    build_for_test,
    last_weights,
    load_for_test,
    load_weights,
    mark_given,
    own_weights_later,
    zoo_entries,
    zoo_file,
)
from vis_projects.weights.default_outputs import config_that_makes
from vis_projects.weights.verdict import absent_tensors


class Net(nn.Module):
    """A frozen trunk with a frozen norm, a head that learns."""

    def __init__(self) -> None:
        super().__init__()
        from detectron2.layers import FrozenBatchNorm2d

        self.trunk = nn.Sequential(nn.Conv2d(3, 4, 1), FrozenBatchNorm2d(4)).requires_grad_(False)
        self.head = nn.Conv2d(4, 2, 1)


def save(state, folder, name="w.pth") -> str:
    torch.save({"model": state}, folder / name)
    return str(folder / name)


def test_frozen_norms_do_not_hide_a_foreign_file(tmp_path) -> None:
    with pytest.raises(InputError, match="no tensor fits Net"):
        load_weights(Net(), save({"foo.bar": torch.zeros(3)}, tmp_path))


def test_heads_may_be_fresh_in_training_and_frozen_parts_may_not(tmp_path) -> None:
    state = Net().state_dict()
    trunk = {k: v for k, v in state.items() if k.startswith("trunk")}
    verdict = load_weights(Net(), save(trunk, tmp_path))
    verdict.require_for_training()
    assert set(verdict.absent) == {"head.weight", "head.bias"} and not verdict.frozen_absent
    with pytest.raises(InputError, match="without a value: head;"):
        verdict.require_for_test()
    verdict.require_for_test(allow=True)
    head = {k: v for k, v in state.items() if k.startswith("head")}
    verdict = load_weights(Net(), save(head, tmp_path))
    with pytest.raises(InputError, match=r"trunk.* of Net is frozen"):
        verdict.require_for_training()
    with pytest.raises(InputError, match="MODEL.WEIGHTS is empty: .*trunk"):
        load_weights(Net(), "").require_for_training()


def test_a_loaded_part_keeps_what_the_file_does_not_name(tmp_path) -> None:
    """Loading a head alone must not reset the statistics of a frozen norm that has its own."""
    net = Net()
    net.trunk[1].running_mean.fill_(3.0)
    load_weights(net, save({"head.weight": torch.ones(2, 4, 1, 1)}, tmp_path))
    assert (net.trunk[1].running_mean == 3).all() and (net.head.weight == 1).all()


def test_folded_statistics_count_as_given(tmp_path) -> None:
    state = {k: v for k, v in Net().state_dict().items() if "running" not in k}
    net = Net()
    net.trunk[1].running_var.fill_(9.0)
    verdict = load_weights(net, save(state, tmp_path))
    assert not verdict.absent and (net.trunk[1].running_var == 1).all()


def test_another_shape_is_named(tmp_path) -> None:
    state = {**Net().state_dict(), "head.weight": torch.zeros(5, 4, 1, 1)}
    with pytest.raises(InputError, match=r"head.weight 5x4x1x1 instead of 2x4x1x1"):
        load_weights(Net(), save(state, tmp_path)).require_for_test()


def test_own_weights_are_asked_for_only_where_nothing_gives_them(tmp_path) -> None:
    asked = []

    def build() -> Net:
        net = Net()
        bring_own_weights(net.trunk, lambda: asked.append(1))
        return net

    build()
    assert len(asked) == 1  # outside: at once, as anybody's build expects
    with own_weights_later():
        net = build()
    load_weights(net, save(Net().state_dict(), tmp_path)).require_for_test()
    assert len(asked) == 1  # the file has the trunk
    with own_weights_later():
        net = build()
    head = {k: v for k, v in Net().state_dict().items() if k.startswith("head")}
    load_weights(net, save(head, tmp_path)).require_for_test()
    assert len(asked) == 2
    net = Net()
    mark_given(net.trunk)
    load_weights(net, save(head, tmp_path)).require_for_test()


def test_a_timm_network_asks_no_hub_when_weights_are_given(tmp_path, monkeypatch) -> None:
    from vis_projects.modeling.backbones import timm_backbone

    def hub(*args):
        raise InputError("the hub was asked")

    monkeypatch.setattr(timm_backbone, "_pretrained", hub)
    opts = ["MODEL.DEVICE", "cpu", "MODEL.TIMM.NAME", "resnet10t", "MODEL.TIMM.STANDARDISE", ""]
    cfg = load_config("configs/feature_match/lite0.yaml", [*opts, "MODEL.TIMM.PRETRAINED", "True"])
    with pytest.raises(InputError, match="the hub was asked"):
        build_for_test(cfg)
    plain = load_config("configs/feature_match/lite0.yaml", [*opts, "MODEL.TIMM.PRETRAINED",
                        "False", "MODEL.ALLOW_MISSING_WEIGHTS", "True"])  # fmt: skip
    model, _ = build_for_test(plain)
    cfg.MODEL.WEIGHTS = save(model.state_dict(), tmp_path)
    _, verdict = build_for_test(cfg)
    assert not verdict.absent
    # Detectron2's own order: build, then load (DefaultPredictor, a script).
    other = build_model(cfg).eval()
    other.load_state_dict(torch.load(cfg.MODEL.WEIGHTS)["model"])
    other.require_weights()
    bare = build_model(cfg).eval()
    bare.load_state_dict({}, strict=False)
    with pytest.raises(InputError, match="the hub was asked"):
        bare.require_weights()


def test_a_head_of_other_classes_is_not_brought_along(tmp_path, monkeypatch) -> None:
    """ImageNet's classifier gives its trunk; the new head of a test has no value, and nothing is
    fetched for it."""
    asked = []
    monkeypatch.setattr(
        timm_classifier, "_imagenet_state", lambda name, size: asked.append(name) or {}
    )
    opts = ["MODEL.DEVICE", "cpu", "MODEL.MSN.CLASSIFIER.NAME", "vit_tiny_patch16_224"]
    cfg = load_config("configs/msn/reclassifier_ytvis2021.yaml", opts)
    with pytest.raises(InputError, match="MODEL.WEIGHTS is empty"):
        build_for_test(cfg)
    assert not asked
    monkeypatch.setattr(
        timm_classifier, "_imagenet_state", lambda name, size: trunk_of(name, asked)
    )
    net = timm_classifier.build_timm_classifier(
        "vit_tiny_patch16_224", num_classes=40, pretrained=True
    )
    assert asked and absent_tensors(net) == ["head.bias", "head.weight"]


def trunk_of(name: str, asked: list) -> dict[str, torch.Tensor]:
    asked.append(name)
    return timm_classifier.build_timm_classifier(name).state_dict()


def test_no_part_is_asked_for_its_weights_in_vain(tmp_path) -> None:
    """A foreign file, or a head without weights at test: refused before anything is downloaded."""
    asked = []

    def build() -> Net:
        with own_weights_later():
            net = Net()
            bring_own_weights(net.trunk, lambda: asked.append(1))
        return net

    cfg = load_config("configs/quickstart.yaml", ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    with pytest.raises(InputError, match="MODEL.WEIGHTS is empty"):
        load_for_test(cfg, build())
    foreign = save({"foo.bar": torch.zeros(3)}, tmp_path)
    with pytest.raises(InputError, match="no tensor fits Net"):
        load_weights(build(), foreign)
    assert not asked
    head = {k: v for k, v in Net().state_dict().items() if k.startswith("head")}
    cfg.MODEL.WEIGHTS = save(head, tmp_path)
    load_for_test(cfg, build())
    assert len(asked) == 1


def test_a_missing_default_start_names_the_config_that_makes_it() -> None:
    said = config_that_makes("output/condinst_R50_1x_coco/model_final.pth")
    assert said.endswith("configs/crossvis/CondInst_R50_1x_coco.yaml")
    with pytest.raises(InputError, match="CondInst_R50_1x_coco.yaml"):
        load_weights(Net(), "output/condinst_R50_1x_coco/model_final.pth")
    said = config_that_makes("output/seq_mask_rcnn_official_R50_ytvis2019.pth")
    assert "name the authors' file itself" in said
    assert config_that_makes("elsewhere/model_final.pth") == ""


def test_the_last_checkpoint(tmp_path) -> None:
    cfg = load_config("configs/copy_first/davis2016.yaml", ["OUTPUT_DIR", str(tmp_path)])
    assert last_weights(cfg) == ""
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    with pytest.raises(InputError, match=r"names model_final\.pth, which is not there"):
        last_weights(cfg)
    (tmp_path / "model_final.pth").write_bytes(b"x")
    assert last_weights(cfg) == str(tmp_path / "model_final.pth")


def test_names(tmp_path) -> None:
    with pytest.raises(InputError, match="has to be fetched by hand"):
        load_weights(Net(), "zoo://cfbi_R101_ytvos")
    with pytest.raises(InputError, match="did you mean cfbi_R101_ytvos"):
        zoo_file("cfbi_R101_ytvo")
    for entry in zoo_entries().values():
        assert entry.about and (entry.url or entry.by_hand or entry.file)
        if entry.config:
            load_config(entry.config)


def test_addresses_of_torchvision_are_those_of_the_package() -> None:
    """Nothing from memory: its own table has the address and the size of every file."""
    from torchvision.models import get_model_weights, list_models

    known = {
        weights.url: weights.meta["_file_size"]
        for name in list_models(include="res*")
        for weights in get_model_weights(name)
    }
    found = [e for e in zoo_entries().values() if e.source == "torchvision"]
    assert len(found) == 4
    for entry in found:
        assert abs(known[entry.url] - entry.megabytes) < 1, entry.name
