"""``vis bench``: it times a config whose weights nobody has yet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vis_projects.cli import run_script

TINY = ["--size", "64x96", "--frames", "2", "--warm-up", "0", "--device", "cpu"]


@pytest.mark.parametrize("named", ["output/not/made.pth", "detectron2://not/downloaded.pkl"])
def test_without_the_configs_weights_they_are_random(tmp_path: Path, capsys, named: str) -> None:
    figures = tmp_path / "figures.json"
    argv = ["--config-file", "configs/quickstart.yaml", *TINY, "--json", str(figures)]
    assert run_script("bench", [*argv, "MODEL.WEIGHTS", named], prog="vis bench") == 0
    assert "weights random" in capsys.readouterr().out
    found = json.loads(figures.read_text())
    assert found["weights"] == "random" and found["median_ms"] > 0


def test_weights_that_are_named_must_be_there(capsys) -> None:
    argv = ["--config-file", "configs/quickstart.yaml", *TINY, "--weights", "output/not/made.pth"]
    assert run_script("bench", argv, prog="vis bench") == 2
    assert "output/not/made.pth" in capsys.readouterr().err
