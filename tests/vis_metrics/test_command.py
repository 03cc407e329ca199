"""The command ``vis-score``."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from vis_metrics import write_sequence
from vis_metrics.cli import main


def test_ytvis(golden, tmp_path, capsys):
    expected = json.loads(golden("metrics/ytvis_expected.json").read_text())["medium"]
    truth, own = golden("metrics/ytvis_gt.json"), golden("metrics/ytvis_pred_medium.json")
    out = tmp_path / "figures.json"
    common = ["ytvis", "--ground-truth", str(truth), "--results", str(own)]
    assert main([*common, "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"{100 * expected['stats'][0]:.2f}" in printed and "class_3" in printed
    report = json.loads(out.read_text())
    keys = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    keys += ["AR1", "AR10", "AR100", "ARs", "ARm", "ARl", "per_category"]
    assert list(report) == keys
    assert [report[key] for key in keys[:12]] == pytest.approx(expected["stats"], abs=1e-12)
    assert report["per_category"]["class_5"] is None
    assert main([*common, "--identity", "--bootstrap", "5", "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    assert {"identity", "bootstrap"} < set(report)
    assert main([*common, "--validate-only"]) == 0
    assert "51 tracks" in capsys.readouterr().out


@pytest.fixture
def maps(golden):
    return np.load(golden("metrics/davis_label_maps.npz"))


@pytest.mark.parametrize(("name", "protocol"), [("s_basic", "semi"), ("u_few", "unsup")])
def test_davis(name, protocol, maps, tmp_path, capsys):
    frames = [f"{t:05d}" for t in range(len(maps[f"{name}/gt"]))]
    write_sequence(tmp_path / "gt" / name, maps[f"{name}/gt"], frames)
    write_sequence(tmp_path / "own" / name, maps[f"{name}/pred"], frames)
    out = tmp_path / "figures.json"
    common = ["davis", "--protocol", protocol, "--ground-truth", str(tmp_path / "gt")]
    common += ["--results", str(tmp_path / "own")]
    assert main([*common, "--json", str(out), "--bootstrap", "3"]) == 0
    report = json.loads(out.read_text())
    keys = ["J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay"]
    assert list(report)[:8] == [*keys, "per_object"]
    assert f"{100 * report['J-Mean']:.2f}" in capsys.readouterr().out
    (tmp_path / "list.txt").write_text(f"{name}\n")
    assert main([*common, "--sequences", str(tmp_path / "list.txt")]) == 0
    assert main([*common, "--validate-only"]) == 0


def test_ytvos(tmp_path, capsys):
    labels = np.zeros((4, 20, 30), np.uint8)
    labels[:, 5:12, 5:20] = 1
    frames = ["00000", "00005", "00010", "00015"]
    for folder in ("gt", "own"):
        write_sequence(tmp_path / folder / "v", labels, frames)
    meta = {"videos": {"v": {"objects": {"1": {"category": "cat", "frames": frames}}}}}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    (tmp_path / "seen.txt").write_text("dog\n")
    common = ["ytvos", "--ground-truth", str(tmp_path / "gt"), "--results", str(tmp_path / "own")]
    common += ["--meta", str(tmp_path / "meta.json")]
    out = tmp_path / "x.json"
    assert main([*common, "--json", str(out), "--seen", str(tmp_path / "seen.txt")]) == 0
    report = json.loads(out.read_text())
    assert report["G"] == 1.0 and report["J_unseen"] == 1.0 and report["J_seen"] is None
    assert main([*common, "--validate-only"]) == 0
    assert main([*common, "--seen", str(tmp_path / "nothing")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_bad_input_is_one_line_and_exit_code_2(golden, tmp_path, capsys):
    truth = str(golden("metrics/ytvis_gt.json"))
    assert main(["ytvis", "--ground-truth", truth, "--results", str(tmp_path / "no.json")]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and "no.json" in captured.err
    code = main(["ytvis", "--ground-truth", truth, "--results", truth, "--json", str(tmp_path)])
    assert code == 2 and "is a folder" in capsys.readouterr().err


def test_runs_as_a_module_and_explains_itself():
    command = [sys.executable, "-m", "vis_projects.evaluation", "davis", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--protocol" in done.stdout and "up to 20 proposals" in done.stdout
