"""The README's promises; its commands are run in tests/docs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from page_commands import ROOT, read_page

from vis_projects.engine.benchmark import moving_boxes

README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_five_lines_of_python(page: str, monkeypatch, capsys) -> None:
    (code,) = read_page(page).code
    assert len([line for line in code.splitlines() if line.strip()]) <= 5
    monkeypatch.chdir(ROOT)
    images, labels = moving_boxes((48, 64), 2, frames=4)
    scope = {"frames": images, "first_mask": labels[0]}
    exec(compile(code, page, "exec"), scope)
    assert capsys.readouterr().out.splitlines() == [f"{t} [1, 2]" for t in range(4)]
    tracks = scope["predictor"].video_result.tracks
    assert [t.id for t in tracks] == [1, 2]
    if page == "docs/index.md":  # which repeats the first mask
        assert np.array_equal(list(scope["predictor"].video_result.label_maps())[3], labels[0])


def test_the_readme_is_one_screen() -> None:
    assert len(README.splitlines()) <= 75


def test_make_knows_the_commands_of_the_readme() -> None:
    named = set(re.findall(r"`make (\w+)`", README))
    assert named == {"quickstart", "test"}
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert named <= set(targets)


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_a_second_make_installs_nothing(tmp_path: Path) -> None:
    """The stamps: with them fresh neither pip nor venv is called."""
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    for name in ("bin/python", ".installed", ".installed-dev"):
        (venv / name).touch()
    for target, program in (("quickstart", "vis train"), ("test", "pytest")):
        done = subprocess.run(
            ["make", "-n", target, f"VENV={venv}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert program in done.stdout
        assert "pip" not in done.stdout and "venv " not in done.stdout
