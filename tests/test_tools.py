"""Every script and benchmark imports and explains itself."""

from __future__ import annotations

import importlib
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS
from benchmarks.__main__ import main as benchmarks

ROOT = Path(__file__).parents[1]
SCRIPTS = ["benchmark.py", "demo.py", "train_net.py"]
SCRIPTS += sorted(f"tools/{f.name}" for f in ROOT.glob("tools/[!_]*.py"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_explains_itself(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    folder = str((ROOT / script).parent)  # as Python itself does; some add more
    monkeypatch.setattr(sys, "path", [folder, *sys.path])
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


def test_old_names_lead_to_the_new_commands(tmp_path, monkeypatch):
    """A script of before, with its options, does what it did: through the command of today."""
    run = [
        sys.executable,
        "tools/compare_association.py",
        "--config-file",
        "configs/quickstart.yaml",
    ]
    run += ["--rules", "iou", "crossvis", "--samples", "20", "--json", str(tmp_path / "rules.json")]
    run += ["--opts", "DATASETS.TEST", "('synthetic_val:videos=2:length=2:size=48x64',)"]
    run += ["MODEL.WEIGHTS", "", "MODEL.ALLOW_MISSING_WEIGHTS", "True"]
    run += ["OUTPUT_DIR", str(tmp_path / "out")]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "tools/compare_association.py goes in the next version: use vis compare" in done.stderr
    assert '"iou"' in (tmp_path / "rules.json").read_text()
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    moved = importlib.import_module("_moved")
    named = [*moved.BENCHMARKS, *moved.COMPARISONS]
    assert all((ROOT / "tools" / f"{name}.py").is_file() for name in named)
    assert set(moved.BENCHMARKS.values()) <= set(BENCHMARKS)
    assert all((ROOT / file).exists() for file in moved.COMPARISONS.values())
    both = moved.comparisons(
        "score_davis2016_unsup", ["--config-file", "c.yaml", "--json", "x.json"]
    )
    front = ["compare", "--config-file", "c.yaml", "--protocol"]
    assert both == [[*front, "2016", "--json", "x.2016.json"],
                    [*front, "unsup", "--json", "x.unsup.json"]]  # fmt: skip
