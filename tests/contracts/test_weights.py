"""Weights that do not fit end every command in one line and exit code 2, whatever the system."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from systems import CASES, SystemCase

from vis_projects.cli import run_script
from vis_projects.config import load_config
from vis_projects.structures import InputError
from vis_projects.video import VideoPredictor
from vis_projects.weights import own_weights_later
from vis_projects.weights.verdict import trained_tensors

# Networks of single images: no system of videos.
STILLS = [
    SystemCase(
        "condinst",
        "configs/crossvis/CondInst_quickstart_synthetic.yaml",
        opts=("DATASETS.TEST", "('synthetic_stills_val:videos=1:length=2:size=48x64',)"),
    ),
    SystemCase("msn_detector", "configs/msn/quickstart_detector.yaml"),
    SystemCase("msn_selection", "configs/msn/quickstart_selection.yaml"),
    SystemCase(
        "msn_reclassifier",
        "configs/msn/reclassifier_ytvis2021.yaml",
        opts=("MODEL.MSN.CLASSIFIER.NAME", "vit_tiny_patch16_224"),
    ),
]
SYSTEMS = [c for c in CASES if c.name != "copy_first"]
KINDS = ("foreign", "empty", "other", "half", "half_of_the_tensors", "none")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Frames, a mask, and weights of each system."""
    root = tmp_path_factory.mktemp("weights")
    (root / "frames").mkdir()
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    for t in range(2):
        cv2.imwrite(str(root / f"frames/{t:05d}.png"), image)
    mask = np.zeros((48, 64), np.uint8)
    mask[9:20, 9:30] = 1
    cv2.imwrite(str(root / "mask.png"), mask)
    return root


@pytest.fixture(autouse=True)
def quiet_logs(monkeypatch) -> None:
    """Handlers of an earlier call in this process write to a stream that is closed by now."""
    monkeypatch.setattr(logging, "raiseExceptions", False)


@pytest.fixture(scope="module", params=[*SYSTEMS, *STILLS], ids=lambda c: c.name)
def case(request) -> SystemCase:
    return request.param


@pytest.fixture(scope="module")
def weights(case: SystemCase, folder: Path) -> dict[str, str]:
    """One file of each kind for a system; "none" names no file."""
    with own_weights_later():  # no download for a model that is looked at alone
        model = build_model(case.cfg())
    state = model.state_dict()
    files = {kind: folder / f"{case.name}_{kind}.pth" for kind in KINDS if kind != "none"}
    torch.save({"model": {"foo.bar": torch.zeros(3)}}, files["foreign"])
    files["empty"].write_bytes(b"")
    other = {f"segmenter.{k}": v for k, v in list(state.items())[:9]}
    if case.name != "srnet":
        other = build_model(next(c for c in CASES if c.name == "srnet").cfg()).state_dict()
    torch.save({"model": other}, files["other"])
    trained = sorted(trained_tensors(model))
    torch.save({"model": {k: state[k] for k in trained[::2]}}, files["half_of_the_tensors"])
    torch.save({"model": state}, folder / "whole.pth")
    data = (folder / "whole.pth").read_bytes()
    files["half"].write_bytes(data[: len(data) // 2])
    return {"none": "", **{k: str(v) for k, v in files.items()}}


def one_line(out: pytest.CaptureFixture[str], *parts: str) -> None:
    lines = out.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert all(p in lines[0] for p in parts), lines[0]
    assert "\x1b" not in lines[0]


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_is_refused(case, weights, kind, folder, capfd) -> None:
    argv = [
        *("--config-file", case.config, "--num-gpus", "0", "--eval-only", *case.opts),
        *("OUTPUT_DIR", str(folder / "out"), "MODEL.WEIGHTS", weights[kind]),
    ]
    assert run_script("train", argv, prog="train_net.py") == 2
    one_line(capfd, "MODEL.WEIGHTS" if kind == "none" else Path(weights[kind]).name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_demo_is_refused(case, weights, kind, folder, capfd) -> None:
    if case in STILLS:
        pytest.skip("no system of videos")
    given = ["--weights", weights[kind]] if weights[kind] else ["MODEL.WEIGHTS", ""]
    mask = ["--first-mask", str(folder / "mask.png")]
    takes = load_config(case.config).MODEL.META_ARCHITECTURE in ("FRTM", "CFBI", "FeatureMatch")
    argv = [
        *("--config-file", case.config, "--input", str(folder / "frames")),
        *("--output", str(folder / "demo"), *(mask if takes else [])),
        *(given[:2] if given[0] == "--weights" else ()),
        *case.opts,
        *(given if given[0] != "--weights" else ()),
    ]
    assert run_script("run", argv, prog="demo.py") == 2
    one_line(capfd, "MODEL.WEIGHTS" if kind == "none" else Path(weights[kind]).name)
    assert not (folder / "demo").exists()


def test_detectron2s_own_predictor_is_refused_without_weights(case, folder) -> None:
    """It loads by itself, and nothing for "": the model stops at the first image."""
    if case.name in ("msn_selection", "msn_reclassifier"):
        pytest.skip("reads pairs of masks, or crops of objects: no images")
    opts = [*case.opts, "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"]
    predictor = DefaultPredictor(load_config(case.config, opts))
    with pytest.raises(InputError, match="MODEL.WEIGHTS is empty") as error:
        predictor(cv2.imread(str(folder / "frames/00000.png")))
    assert "\n" not in str(error.value)


def test_a_model_of_a_script_is_looked_at_too(folder) -> None:
    """``build_model`` and ``VideoPredictor(cfg, model=...)`` without loading anything."""
    case = next(c for c in CASES if c.name == "crossvis")
    cfg = load_config(case.config, [*case.opts, "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"])
    model = build_model(cfg).eval()
    state = model.state_dict()
    with pytest.raises(InputError, match="MODEL.WEIGHTS is empty"):
        VideoPredictor(cfg, model=model)
    model.load_state_dict({k: v for k, v in state.items() if "mask_branch" not in k}, strict=False)
    with pytest.raises(InputError, match="without a value: mask_branch"):
        VideoPredictor(cfg, model=model)
    model.load_state_dict(state)
    VideoPredictor(cfg, model=model)


def test_a_predictor_tells_its_names_before_it_has_weights() -> None:
    """Names are those of the config's data; the first video is refused."""
    predictor = VideoPredictor("configs/quickstart.yaml", device="cpu")
    assert predictor.class_names[:2] == ["disc", "box"]
    with pytest.raises(InputError, match="MODEL.WEIGHTS is empty"):
        list(predictor([np.zeros((48, 64, 3), np.uint8)] * 2))


def test_what_is_left_unread_of_a_file_that_does_not_fit_is_named(folder, tmp_path, capfd) -> None:
    file = tmp_path / "namespace.pth"
    torch.save({"model": {"a": torch.zeros(1)}, "args": argparse.Namespace(lr=1)}, file)
    argv = ["--config-file", "configs/quickstart.yaml", "--weights", str(file)]
    argv += ["--input", str(folder / "frames"), "--output", str(tmp_path / "out")]
    assert run_script("run", argv, prog="demo.py") == 2
    one_line(capfd, "argparse.Namespace")


def test_a_system_without_trained_parts_needs_none(folder, capfd) -> None:
    case = next(c for c in CASES if c.name == "copy_first")
    argv = [
        *("--config-file", case.config, "--input", str(folder / "frames")),
        *("--output", str(folder / "copy"), "--first-mask", str(folder / "mask.png")),
    ]
    assert run_script("run", argv, prog="demo.py") == 0


def test_missing_weights_can_be_allowed(folder, capfd) -> None:
    case = next(c for c in CASES if c.name == "crossvis")
    argv = [
        *("--config-file", case.config, "--input", str(folder / "frames")),
        *("--output", str(folder / "allowed"), *case.opts),
        *("MODEL.WEIGHTS", "", "MODEL.ALLOW_MISSING_WEIGHTS", "True"),
    ]
    assert run_script("run", argv, prog="demo.py") == 0
