"""Config files: bases from anywhere, one line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vis_projects.config import config_root, get_cfg, load_config, shipped_configs
from vis_projects.structures import InputError, resolve_device

SHIPPED = "crossvis/quickstart_synthetic.yaml"


@pytest.mark.parametrize("base", [f"configs/{SHIPPED}", SHIPPED, str(config_root() / SHIPPED)])
def test_a_shipped_base_is_found_from_any_folder(base: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(f"_BASE_: {base}\nSOLVER: {{MAX_ITER: 7}}\n")
    cfg = load_config("mine.yaml")
    assert (cfg.SOLVER.MAX_ITER, cfg.MODEL.FCOS.NUM_CLASSES) == (7, 4)


def test_a_base_beside_the_file_wins_and_several_are_merged_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("SEED: 1\nSOLVER: {MAX_ITER: 1, BASE_LR: 0.5}\n")
    (tmp_path / "b.yaml").write_text("SOLVER: {MAX_ITER: 2}\n")
    (tmp_path / "c.yaml").write_text("_BASE_: [a.yaml, b.yaml]\nSOLVER: {GAMMA: 0.3}\n")
    solver = load_config(tmp_path / "c.yaml").SOLVER
    assert (solver.MAX_ITER, solver.BASE_LR, solver.GAMMA) == (2, 0.5, 0.3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("_BASE_: crossvis/quickstart_synthetik.yaml", "_BASE_.*did you mean configs/crossvis/q"),
        ("_BASE_: c.yaml", "its own _BASE_"),
        ("A: !!python/object/apply:os.getcwd []", "only plain YAML"),
        ("- 1", "no KEY: value"),
        ("VERSION: 1", "VERSION 1"),
        ("SOLVER: {MAX_ITR: 3}", "SOLVER.MAX_ITER"),
        ("SOLVER: {MAX_ITER: many}", "MAX_ITER takes int, not text"),
        ("SOLVER: [", "c.yaml"),
        ("SOLVER: 3", "SOLVER takes a section of options, not int"),
        ("MODEL:", "MODEL takes a section of options, not nothing"),
    ],
)
def test_what_is_wrong_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text + "\n")
    with pytest.raises(InputError, match=message) as caught:
        load_config(tmp_path / "c.yaml")
    assert "\n" not in str(caught.value)


def test_a_flag_behind_the_options_is_named() -> None:
    with pytest.raises(InputError, match="--resume stands behind"):
        load_config(f"configs/{SHIPPED}", ["SOLVER.MAX_ITER", "3", "--resume"])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.META_ARCHITECTURE", "CrossViS", r"did you mean CrossVIS.*--import"),
        ("MODEL.META_ARCHITECTURE", "MyIdea", r"'MyIdea' is not registered.*--import"),
        ("MODEL.BACKBONE.NAME", "build_fcos_smal_fpn_backbone", "build_fcos_small_fpn_backbone"),
        ("MODEL.PROPAGATOR.NAME", "CFBIPropagater", "did you mean CFBIPropagator"),
        ("MODEL.ROI_HEADS.NAME", "SeqPropROIHead", "did you mean SeqPropROIHeads"),
        ("INPUT.SAMPLER.NAME", "pare", "did you mean pair"),
    ],
)
def test_a_mistyped_registered_name_is_one_line(key: str, value: str, message: str) -> None:
    with pytest.raises(InputError, match=f"{key}.*{message}") as caught:
        load_config(f"configs/{SHIPPED}", [key, value])
    assert "\n" not in str(caught.value)


def test_every_shipped_config_names_what_is_registered_and_no_device() -> None:
    for file in shipped_configs():
        device = load_config(file).MODEL.DEVICE
        assert device == ("cuda" if torch.cuda.is_available() else "cpu"), file


def test_auto_is_resolved_when_a_config_is_loaded(monkeypatch) -> None:
    for there, device in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert device == load_config(f"configs/{SHIPPED}", ["MODEL.DEVICE", "auto"]).MODEL.DEVICE
        assert device == get_cfg().MODEL.DEVICE


@pytest.mark.parametrize("device", ["cuda", "cuda:3", "mps", "gpu", "xpu", "cpu:x"])
def test_a_device_that_is_not_there_is_one_line(device: str, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=rf"device '?{device}'?.*use auto") as caught:
        load_config(f"configs/{SHIPPED}", ["MODEL.DEVICE", device])
    assert "\n" not in str(caught.value)


def test_a_gpu_beyond_the_last_is_named(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == "cuda:1"
    with pytest.raises(InputError, match="cuda:2: this machine has 2: cuda:0 to cuda:1"):
        resolve_device("cuda:2")
