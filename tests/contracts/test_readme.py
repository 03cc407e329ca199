"""The README's promises: its Python runs, its files and options exist."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from vis_projects import cli
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


def commands(page: str = "README.md") -> list[list[str]]:
    """The command lines of a page: fenced or indented blocks, without comments."""
    text = (ROOT / page).read_text()
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    (.*)$", text, flags=re.MULTILINE)
    lines = "\n".join([*fenced, *indented]).replace("\\\n", " ").splitlines()
    lines = [re.sub(r"\s#.*", "", line) for line in lines]
    words = [shlex.split(re.sub(r"[\[\]]", "", line), posix=True) for line in lines if line.strip()]
    return [[w for w in line if not re.fullmatch(r"[A-Z_0-9]+=\S+", w)] for line in words if line]


PAGES = ["README.md", "CONTRIBUTING.md", "datasets/README.md"]
SCRIPTS = {
    "train_net.py": ["train"],
    "demo.py": ["run"],
    "benchmark.py": ["bench"],
    "datasets/prepare.py": ["data"],
    "tools/convert_weights.py": ["weights", "convert"],
}


def as_subcommand(words: list[str]) -> list[str] | None:
    """A command line as the words behind ``vis``; None for other programs."""
    if words[:1] == ["vis"]:
        return words[1:]
    for i, word in enumerate(words):
        if word in SCRIPTS:
            return [*SCRIPTS[word], *words[i + 1 :]]
        if word == "vis_projects" and words[i - 1] == "-m":
            return words[i + 1 :]
    return None


@pytest.mark.parametrize("page", PAGES)
def test_every_command_named_is_understood(page: str) -> None:
    """The parser of the command takes the line as it stands, placeholders filled in."""
    found = [c for c in map(as_subcommand, commands(page)) if c is not None]
    assert found
    for name, *rest in found:
        fill = {"N": "2", "...": ""}
        words = [fill.get(w, w).split("|")[0].removesuffix("...") for w in rest]
        words = [w for w in words if w]
        if name.startswith("-"):
            continue
        try:
            cli.parse(name, words, prog=f"vis {name}")
        except SystemExit as end:
            assert end.code == 0, f"{page}: vis {name} {' '.join(words)}"


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page: str) -> None:
    for words in commands(page):
        for word in words:
            if re.fullmatch(r"(configs|tools|datasets)/[\w./-]+\.(ya?ml|py)", word):
                assert (ROOT / word).is_file(), f"{page} names {word}"
    for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / link).exists(), f"{page} links to {link}"


def test_make_knows_the_commands_of_the_readme() -> None:
    named = {w for words in commands() if words[0] == "make" for w in words[1:] if "=" not in w}
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
