"""``vis export model``: files whose outputs are the network's, for any number of images."""

from __future__ import annotations

import json

import pytest
import torch

from vis_projects import cli
from vis_projects.config import load_config
from vis_projects.engine.export import export_model, run_file
from vis_projects.structures import InputError

PLAIN = ["MODEL.DEVICE", "cpu", "MODEL.ALLOW_MISSING_WEIGHTS", "True", "MODEL.WEIGHTS", ""]
SMALL_CFBI = ("MODEL.CFBI.DEPTH", "18", "MODEL.CFBI.WIDTH", "32")
SYSTEMS = {
    "crossvis": ("configs/quickstart.yaml", (64, 96), ()),
    "srnet": ("configs/srnet/quickstart_synthetic.yaml", (64, 96), ()),
    "frtm": ("configs/frtm/R18_fast_davis2017.yaml", (64, 96), ("MODEL.FRTM.BACKBONE_WEIGHTS", "")),
    "frtm_lite0": (
        "configs/frtm/lite0_matching_davis2016.yaml",
        (64, 96),
        ("MODEL.TIMM.PRETRAINED", "False"),
    ),
    "cfbi": ("configs/cfbi/quickstart_synthetic.yaml", (65, 97), ()),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pt2", "onnx"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_files_give_what_the_network_gives(system, kind, tmp_path):
    """The exporter compares each file with its network at 1e-4; here with other counts."""
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    config, size, own = SYSTEMS[system]
    torch.manual_seed(0)
    cfg = load_config(config, [*PLAIN, *own])
    files = export_model(cfg, tmp_path / "net", size=size, kind=kind)
    assert files and all(f.suffix == f".{kind}" and f.is_file() for f in files)
    for file in files:
        card = json.loads(file.with_suffix(".json").read_text())
        counts = {name: 3 if name in card["varies"] else shape[0]
                  for name, shape in card["inputs"].items()}  # fmt: skip
        inputs = {n: torch.rand(counts[n], *s[1:]) for n, s in card["inputs"].items()}
        for (name, shape), found in zip(card["outputs"].items(), run_file(file, inputs, kind)):
            assert list(found.shape[1:]) == shape[1:] and found.shape[0] == 3, name
            assert torch.as_tensor(found).isfinite().all()


@pytest.mark.slow
def test_from_a_command_to_a_file(tmp_path, capsys):
    out = tmp_path / "net.pt2"
    config = SYSTEMS["crossvis"][0]
    code = cli.main(
        ["export", "model", "--config-file", config, "--format", "pt2", "--size", "64x96",
         "--output", str(out), *PLAIN]
    )  # fmt: skip
    assert code == 0 and capsys.readouterr().out.strip() == str(out)
    assert json.loads((tmp_path / "net.json").read_text())["system"] == "CrossVIS"


def test_what_cannot_be_exported_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="CopyFirst has no per-frame networks"):
        export_model(
            load_config("configs/copy_first/davis2016.yaml"),
            tmp_path / "x",
            size=(4, 4),
            kind="pt2",
        )
    cfg = load_config(SYSTEMS["crossvis"][0], PLAIN)
    with pytest.raises(InputError, match="format 'tflite'"):
        export_model(cfg, tmp_path / "x", size=(64, 96), kind="tflite")
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install 'vis_projects\\[export\\]'"):
        export_model(cfg, tmp_path / "x", size=(64, 96), kind="onnx")
    assert cli.main(["export", "model", "--config-file", "x", "--size", "big"]) == 2
