"""The authors' files, made from the recorded lists of their keys, in the authors' containers.

Each goes through ``MODEL.WEIGHTS`` of a shipped config and through the converter; every trained
tensor has to get the file's value both ways. Large networks are built without filling their own
start values (``no_init``): only what loading does is looked at.
"""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Callable, Iterator

import numpy as np
import official_files as files
import pytest
import torch
import torchvision
from torch import Tensor, nn

from vis_projects.cli import call
from vis_projects.config import load_config
from vis_projects.structures import InputError
from vis_projects.weights import (
    build_for_test,
    load_for_training,
    load_weights,
    own_weights_later,
)
from vis_projects.weights.verdict import trained_tensors

State = dict[str, Tensor]


def _zeros(tensor: Tensor, *args: object, **kwargs: object) -> Tensor:
    with torch.no_grad():
        return tensor.zero_()


@pytest.fixture(autouse=True)
def quickly(monkeypatch) -> Iterator[None]:
    """Random start values of large networks take seconds, and drawn ones in files, too."""
    monkeypatch.setattr(files, "filled", files.numbered)
    for name in ("normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_"):
        monkeypatch.setattr(nn.init, name, _zeros)
    yield


def config(name: str, weights: object, *opts: str):
    common = ("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", str(weights))
    return load_config(f"configs/{name}.yaml", [*common, *opts])


def build_for_training(cfg):
    from detectron2.modeling import build_model

    with own_weights_later():
        model = build_model(cfg)
    return model, load_for_training(cfg, model)


def wrapped(state: State) -> dict:
    return {"state_dict": {f"module.{k}": v for k, v in state.items()}, "optimizer": {}}


def in_mmdetection(state: State) -> dict:
    return {"meta": {"epoch": 12, "config": argparse.Namespace()}, "state_dict": state,
            "optimizer": {}}  # fmt: skip


def in_frtm_training(state: State) -> dict:
    return {"model": state, "stats": argparse.Namespace(loss=1), "epoch": 249}


def propose_reduce() -> tuple[State, State]:
    """The file, and what it should become."""
    state, ours = {}, {}
    for key, value, name, _ in files.propose_reduce():
        state[key] = value
        if name is None or key.endswith("num_batches_tracked"):
            continue
        if "fc_cls" in key:
            value = torch.cat([value[1:], value[:1]])
        elif "fc_reg" in key:
            value = value[4:]
        elif "mask_head.conv_logits" in key:
            value = value[1:]
        ours[name.replace("seq_prop_head.", "roi_heads.prop_head.")] = value
    return state, ours


def same_names(state: State) -> tuple[State, State]:
    return state, state


def cfbi() -> tuple[State, State]:
    return files.cfbi(), {f"network.{k}": v for k, v in files.cfbi().items()}


def swin_detector() -> tuple[State, State]:
    state, names = files.swin_detector()
    ours = {new: state[old] for old, new in names.items() if "mask_head" not in old}
    ours |= {f"backbone.bottom_up.{k.removeprefix('backbone.')}": v for k, v in state.items()
             if k.startswith("backbone.")}  # fmt: skip
    for stage in range(3):
        for part, name in (("upsample", "deconv"), ("conv_logits", "predictor")):
            for last in ("weight", "bias"):
                old = f"roi_head.mask_head.{stage}.{part}.{last}"
                ours[f"roi_heads.mask_head.{stage}.{name}.{last}"] = state[old]
        for k in range(4):
            for last in ("weight", "bias"):
                old = f"roi_head.mask_head.{stage}.convs.{k}.conv.{last}"
                ours[f"roi_heads.mask_head.{stage}.mask_fcn{k + 1}.{last}"] = state[old]
    return state, ours


# layout: config, converter's name, (file, ours), container, options
WHOLE: dict[str, tuple[str, str, Callable, Callable, tuple[str, ...]]] = {
    "cfbi": ("cfbi/R101_davis2017", "cfbi", cfbi, wrapped, ()),
    "crossvis": (
        "crossvis/R50_1x_ytvis2019", "crossvis", lambda: same_names(files.crossvis()),
        lambda s: {"model": s, "optimizer": {}, "scheduler": {}, "iteration": 9}, (),
    ),
    "condinst": (
        "crossvis/CondInst_R50_1x_coco", "crossvis", lambda: same_names(files.condinst()),
        lambda s: {"model": s, "iteration": 9}, (),
    ),
    "propose_reduce": (
        "seq_mask_rcnn/official_R50_ytvis2019", "seq_mask_rcnn", propose_reduce, in_mmdetection, (),
    ),
    "swin_detector": (
        "msn/detector_swinB_ytvis2021", "swin", swin_detector, in_mmdetection,
        ("MODEL.ROI_HEADS.NUM_CLASSES", "80"),
    ),
}  # fmt: skip


LARGE = ("cfbi", "swin_detector", "propose_reduce")


@pytest.mark.parametrize(
    "layout", [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in WHOLE]
)
def test_whole_networks(layout: str, tmp_path) -> None:
    """MODEL.WEIGHTS OFFICIAL: every trained tensor gets the file's value; converted: the same."""
    name, system, make, container, opts = WHOLE[layout]
    state, ours = make()
    torch.save(container(state), tmp_path / "official.pth")
    model, verdict = build_for_test(config(name, tmp_path / "official.pth", *opts))
    unneeded = tuple(f"{p}." for p in getattr(model, "unused_at_test", ()))
    trained = trained_tensors(model)
    assert verdict.trained == len(trained) and not verdict.absent and not verdict.reshaped
    direct = model.state_dict()
    for key in trained:
        if key in ours or not key.startswith(unneeded or ("\0",)):
            assert torch.equal(direct[key], ours[key]), key
    places = [str(tmp_path / "official.pth"), str(tmp_path / "ours.pth")]
    assert call("weights", ["convert", system, *places], prog="x") == 0
    model, verdict = build_for_test(config(name, tmp_path / "ours.pth", *opts))
    assert not verdict.absent
    for key, value in trained_tensors(model).items():
        assert key.startswith(unneeded or ("\0",)) or torch.equal(direct[key], value), key


@pytest.mark.parametrize("depth", [18, pytest.param(101, marks=pytest.mark.slow)])
def test_frtm_and_its_trunk(depth: int, tmp_path) -> None:
    """The authors' slim and training files; the trunk is torchvision's, wherever it comes from."""
    trunk = torchvision.models.get_model(f"resnet{depth}", weights=None).state_dict()
    torch.save(trunk, tmp_path / "trunk.pth")
    state = files.frtm(depth)
    name = "frtm/R18_fast_davis2017" if depth == 18 else "frtm/R101_davis2017"
    seen = []
    for k, container in enumerate((dict, in_frtm_training)):
        torch.save(container(state), tmp_path / f"{k}.pth")
        assert call(
            "weights", ["convert", "frtm", str(tmp_path / f"{k}.pth"), str(tmp_path / "c.pth")],
            prog="x",
        ) == 0  # fmt: skip
        for file in (f"{k}.pth", "c.pth"):
            opts = ("MODEL.FRTM.BACKBONE_WEIGHTS", str(tmp_path / "trunk.pth"))
            model, verdict = build_for_test(config(name, tmp_path / file, *opts))
            assert not verdict.absent
            seen.append(model.state_dict())
    for found in seen:
        names = trained_tensors(model).keys() & state.keys()
        assert names and all(torch.equal(found[k], state[k]) for k in names)
        for key, value in trunk.items():
            if not key.startswith("fc.") and "num_batches" not in key:
                assert torch.equal(found[f"backbone.{key}"], value)


@pytest.mark.slow
def test_the_start_of_cfbis_training(tmp_path) -> None:
    """DeepLabV3+ into the feature extractor; nothing frozen stays random; heads are fresh."""
    state = files.deeplab()
    torch.save(wrapped(state), tmp_path / "resnet101-deeplabv3p.pth.tar")
    cfg = config("cfbi/R101_davis2017", tmp_path / "resnet101-deeplabv3p.pth.tar")
    model, verdict = build_for_training(cfg)
    assert verdict.layout and not verdict.frozen_absent
    own = model.state_dict()
    for key, value in state.items():
        if not key.startswith("classifier"):
            assert torch.equal(own[f"network.feature_extracter.{key}"], value)
    with pytest.raises(InputError, match="network.dynamic_seghead"):
        build_for_test(cfg)
    places = [str(tmp_path / "resnet101-deeplabv3p.pth.tar"), str(tmp_path / "start.pth")]
    assert call("weights", ["convert", "cfbi", *places], prog="x") == 0
    again, _ = build_for_training(config("cfbi/R101_davis2017", tmp_path / "start.pth"))
    extractor = "network.feature_extracter."
    assert all(torch.equal(v, own[k]) for k, v in again.state_dict().items()
               if k.startswith(extractor))  # fmt: skip


@pytest.mark.slow
def test_main_stage_of_propose_reduce(tmp_path) -> None:
    """A detector without the propagation head starts the fine-tuning."""
    state, ours = propose_reduce()
    torch.save(
        in_mmdetection({k: v for k, v in state.items() if not k.startswith("prop_head.")}),
        tmp_path / "main.pth",
    )
    model, verdict = build_for_training(
        config("seq_mask_rcnn/official_R50_ytvis2019", tmp_path / "main.pth")
    )
    assert all(".prop_head." in name for name in verdict.absent) and verdict.absent
    own = model.state_dict()
    assert all(torch.equal(own[k], v) for k, v in ours.items() if ".prop_head." not in k)


def test_condinst_starts_crossvis(tmp_path) -> None:
    """AdelaiDet's COCO file: fresh are the identities and the classes, the rest is its own."""
    state = files.condinst()
    torch.save({"model": state}, tmp_path / "CondInst_MS_R_50_1x.pth")
    cfg = config("crossvis/R50_1x_ytvis2019", tmp_path / "CondInst_MS_R_50_1x.pth")
    model, verdict = build_for_training(cfg)
    fresh = ("cls.", "proposal_generator.fcos_head.reid", "proposal_generator.fcos_head.cls_logits")
    assert all(n.startswith(fresh) for n in verdict.absent)
    assert verdict.reshaped[0][1] == (80, 256, 3, 3)
    own = model.state_dict()
    assert all(torch.equal(own[k], state[k]) for k in trained_tensors(model) if
               not k.startswith(fresh))  # fmt: skip


@pytest.mark.slow
def test_swin_backbone_starts_the_detector(tmp_path) -> None:
    state = files.swin_backbone()
    state |= {"norm.weight": torch.ones(1024), "head.weight": torch.zeros(1000, 1024)}
    torch.save({"model": state}, tmp_path / "swin.pth")
    cfg = config("msn/detector_swinB_ytvis2021", tmp_path / "swin.pth")
    model, verdict = build_for_training(cfg)
    own = model.state_dict()
    names = [k for k in trained_tensors(model) if k.startswith("backbone.bottom_up.")]
    assert not set(names) & set(verdict.absent)
    for name in names:
        assert torch.equal(own[name], state[name.removeprefix("backbone.bottom_up.")])


RESNETS = [
    ("resnet50", "crossvis/CondInst_R50_1x_coco", "backbone.bottom_up."),
    ("resnet101", "crossvis/CondInst_R101_1x_coco", "backbone.bottom_up."),
    ("resnet101", "srnet/R101_davis2019", "backbone.bottom_up."),
    ("resnet50", "srnet/R50_davis2019", "backbone.bottom_up."),
    ("resnet101", "seq_mask_rcnn/R101_main_ytvis2019", "backbone.bottom_up."),
    ("resnext101_64x4d", "seq_mask_rcnn/X101_main_ytvis2019", "backbone.bottom_up."),
    ("resnet101", "cfbi/R101_davis2017", "network.feature_extracter.backbone."),
    ("resnet18", "frtm/R18_fast_davis2017", "backbone."),
]


@pytest.mark.parametrize(
    ("network", "name", "prefix"),
    [
        pytest.param(*row, marks=[] if k in (3, 7) else pytest.mark.slow)
        for k, row in enumerate(RESNETS)
    ],
    ids=str,
)
def test_torchvision_for_every_resnet_of_the_house(network, name, prefix, tmp_path, caplog) -> None:
    state = torchvision.models.get_model(network, weights=None).state_dict()
    for k, value in enumerate(v for v in state.values() if v.is_floating_point()):
        value.fill_(k + 1.0)  # every tensor has its own number
    torch.save(state, tmp_path / "resnet.pth")
    opts = ["MODEL.ALLOW_MISSING_WEIGHTS", "True"]
    if name.startswith("frtm"):
        opts += ["MODEL.FRTM.BACKBONE_WEIGHTS", ""]
    model, verdict = build_for_training(config(name, tmp_path / "resnet.pth", *opts))
    assert verdict.layout == "torchvision's ResNet"
    warned = [m for m in caplog.messages if "torchvision trained otherwise" in m]
    assert len(warned) == name.startswith(("crossvis", "srnet"))  # their presets are for MSRA's
    assert all("INPUT.FORMAT RGB" in m and "MODEL.PIXEL_STD [58.395" in m for m in warned)
    own = {k: v for k, v in trained_tensors(model).items() if k.startswith(prefix)}
    assert not own.keys() & set(verdict.absent)
    wanted = [v for k, v in state.items() if not k.startswith("fc.") and v.is_floating_point()]
    found = {float(v.detach().flatten()[0]): v.shape for v in own.values()}
    assert found == {float(v.flatten()[0]): v.shape for v in wanted}
    if prefix == "backbone.bottom_up.":
        stem = own["backbone.bottom_up.res2.0.shortcut.norm.running_var"]
        assert torch.equal(stem, state["layer1.0.downsample.1.running_var"])


def _arrays(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    return {k: files.numbered(k, shape).numpy() for k, shape in shapes.items()}


def test_detectron2s_mask_rcnn_starts_srnet(tmp_path, golden) -> None:
    """Its ``.pkl`` of the model zoo: backbone and pyramid, every tensor; the heads stay out."""
    listing = json.loads(golden("detectron2/state_mask_rcnn_R_50_FPN_3x.json").read_text())
    arrays = _arrays(listing["shapes"])
    blob = {"model": arrays, "__author__": "Detectron2 Model Zoo"}
    (tmp_path / "model_final_f10217.pkl").write_bytes(pickle.dumps(blob, 2))
    model, verdict = build_for_training(
        config("srnet/R50_davis2019", tmp_path / "model_final_f10217.pkl")
    )
    assert not [n for n in verdict.absent if n.startswith("backbone.")]
    own = {k: v for k, v in trained_tensors(model).items() if k.startswith("backbone.")}
    assert own and all(np.array_equal(v.detach().numpy(), arrays[k]) for k, v in own.items())
    with pytest.raises(InputError, match="without a value"):
        build_for_test(config("srnet/R50_davis2019", tmp_path / "model_final_f10217.pkl"))


def test_caffe2s_resnet_starts_condinst(tmp_path, golden) -> None:
    """MSRA's R-50 under Caffe2's names, statistics folded; every tensor of the ResNet."""
    names = json.loads(golden("detectron2/c2_names.json").read_text())
    shapes = json.loads(golden("detectron2/state_mask_rcnn_R_50_FPN_3x.json").read_text())["shapes"]
    prefix = "backbone.bottom_up."
    blobs = _arrays({c2: shapes[prefix + n] for c2, n in names.items() if prefix + n in shapes})
    blobs["conv1_w_momentum"] = np.zeros(3, np.float32)
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"blobs": blobs}, 2))
    cfg = config("crossvis/CondInst_R50_1x_coco", tmp_path / "R-50.pkl")
    model, verdict = build_for_training(cfg)
    assert not [n for n in verdict.absent if n.startswith(prefix)] and not verdict.frozen_absent
    own = model.state_dict()
    found = [c2 for c2, n in names.items() if prefix + n in own]
    assert len(found) == len(blobs) - 1
    assert all(np.array_equal(own[prefix + names[c2]].numpy(), blobs[c2]) for c2 in found)


@pytest.mark.slow
def test_msn_takes_official_parts(tmp_path) -> None:
    """join_weights converts; the same CFBI file also loads into the pipeline as it is."""
    from vis_projects.msn.join_weights import main

    torch.save(wrapped(files.cfbi()), tmp_path / "cfbi.pth")
    state, _ = files.swin_detector()
    torch.save(in_mmdetection(state), tmp_path / "swin.pth")
    main(["--detector", str(tmp_path / "swin.pth"), "--propagator", str(tmp_path / "cfbi.pth"),
          str(tmp_path / "joined.pth")])  # fmt: skip
    opts = ("MODEL.MSN.SELECT", "propagation", "MODEL.ROI_HEADS.NUM_CLASSES", "80")
    model, verdict = build_for_test(config("msn/swinB_ytvis2021", tmp_path / "joined.pth", *opts))
    assert not verdict.absent
    own = model.state_dict()
    key = "dynamic_seghead.IA_final_fg.weight"
    assert torch.equal(own[f"propagator.network.{key}"], files.cfbi()[key])
    with pytest.raises(InputError, match="selector"):
        build_for_test(config("msn/swinB_ytvis2021", tmp_path / "joined.pth", *opts[2:]))


def test_what_is_recognised_and_not_supported(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(files, "filled", lambda key, shape, name="": torch.zeros(1))
    mobile = {k.replace("backbone.layer", "backbone.features"): v for k, v in files.cfbi().items()}
    plus = {k: v for k, v in files.cfbi().items() if "semantic_embedding" not in k}
    condinst = {k: torch.zeros(1) for k in files.crossvis() if "reid" not in k}
    dla = {k.replace("bottom_up.", "bottom_up.x."): v for k, v in condinst.items()}
    cases = (
        ("cfbi", mobile, "MobileNet-CFBI is recognised but not supported"),
        ("cfbi", plus, r"CFBI\+ .* recognised but not supported"),
        ("crossvis", dla, "DLA .* recognised but not supported"),
    )
    files_of = [str(tmp_path / "w.pth"), str(tmp_path / "o.pth")]
    for system, state, said in cases:
        torch.save({"state_dict": state}, tmp_path / "w.pth")
        with pytest.raises(InputError, match=said):
            load_weights(nn.Linear(1, 1), files_of[0])
        with pytest.raises(InputError, match=said):
            call("weights", ["convert", system, *files_of], prog="x")
    torch.save(condinst, tmp_path / "w.pth")
    with pytest.raises(InputError, match="no frtm checkpoint; it is CondInst"):
        call("weights", ["convert", "frtm", *files_of], prog="x")
