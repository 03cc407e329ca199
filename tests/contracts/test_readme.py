"""The README's promises: its Python runs, its files and options exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vis_projects.engine.benchmark import moving_boxes

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language; opening and closing fences alternate."""
    parts = re.split(r"^```(\w*)\n", README, flags=re.MULTILINE)
    return [parts[i + 1] for i in range(1, len(parts), 4) if parts[i] == language]


def test_five_lines_of_python(monkeypatch, capsys) -> None:
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 5
    monkeypatch.chdir(ROOT)
    images, labels = moving_boxes((48, 64), 2, frames=4)
    scope = {"frames": images, "first_mask": labels[0]}
    exec(compile(code, "README.md", "exec"), scope)
    assert capsys.readouterr().out.splitlines() == [f"{t} [1, 2]" for t in range(4)]
    tracks = scope["predictor"].video_result.tracks
    assert [t.id for t in tracks] == [1, 2]
    assert np.array_equal(list(scope["predictor"].video_result.label_maps())[3], labels[0])


def commands() -> list[list[str]]:
    text = "\n".join(blocks("")).replace("\\\n", " ")
    return [shlex.split(re.sub(r"[\[\]]", "", line)) for line in text.splitlines() if line.strip()]


def test_named_files_exist() -> None:
    for words in commands():
        for word in words:
            if re.fullmatch(r"(configs|tools|datasets)/[\w./-]+\.(ya?ml|py)", word):
                assert (ROOT / word).is_file(), f"README names {word}"
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), f"README links to {link}"


SCRIPTS = sorted({w for words in commands() for w in words if w.endswith(".py")})


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_explain_themselves(script: str) -> None:
    done = subprocess.run(
        [sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    options = {w for words in commands() if script in words for w in words if w.startswith("--")}
    missing = {o for o in options if o not in done.stdout and o != "--nproc-per-node"}
    assert not missing, f"README names {missing} of {script}"
