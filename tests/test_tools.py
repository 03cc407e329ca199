"""Every script and benchmark imports and explains itself."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS
from benchmarks.__main__ import main as benchmarks

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


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as end:
        benchmarks([name, "--help"])
    assert end.value.code == 0
    assert f"python -m benchmarks {name}" in capsys.readouterr().out


def test_benchmarks_are_listed(capsys):
    assert benchmarks([]) == 0 and benchmarks(["nothing"]) == 2
    out, err = capsys.readouterr()
    assert all(f"  {name} " in out for name in BENCHMARKS) and "no benchmark 'nothing'" in err
