"""Every script imports, explains itself and names options that exist."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from vis_projects.config import load_config

ROOT = Path(__file__).parents[1]
SCRIPTS = ["benchmark.py", "demo.py", "train_net.py"]
SCRIPTS += sorted(f"tools/{f.name}" for f in ROOT.glob("tools/*.py"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_explains_itself(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    monkeypatch.setattr(sys, "path", list(sys.path))  # some add a folder
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_srnet_switches_are_options():
    variants = runpy.run_path(str(ROOT / "tools" / "compare_srnet_switches.py"))["VARIANTS"]
    for switches in variants.values():
        opts = ["MODEL.DEVICE", "meta"]
        for key, value in zip(switches[::2], switches[1::2]):
            opts += [f"MODEL.SRNET.TEST.{key}", str(value)]
        with torch.device("meta"):
            build_model(load_config("configs/srnet/quickstart_synthetic.yaml", opts))
