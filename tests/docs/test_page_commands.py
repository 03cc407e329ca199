"""Every command of every page is run, or stands on the list of those that need data.

Trainings have a smaller MAX_ITER and fewer videos, benchmarks fewer repeats (``page_place``).
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from page_commands import PAGES, ROOT, read_page, words_of
from page_place import Place, subcommand

from vis_projects import cli

NOT_RUN_FILE = Path(__file__).with_name("commands_not_run.txt")
NOT_RUN = [
    line for line in NOT_RUN_FILE.read_text().splitlines() if line and not line.startswith("#")
]
# What takes seconds; all others run in every test of the project.
SLOW = ("train", "compare", "export", "bench", "benchmarks", "torchrun", "sh", "annotate")
SCRIPTS = {
    "train_net.py": ["train"],
    "demo.py": ["run"],
    "benchmark.py": ["bench"],
    "datasets/prepare.py": ["data"],
    "tools/convert_weights.py": ["weights", "convert"],
}


def _plain(command: str) -> str:
    return shlex.join(shlex.split(command))


def _is(entry: str, command: str) -> bool:
    """Whether a line of the list means a command."""
    before = entry.removesuffix(" ...")
    if before == entry:
        return _plain(command) == _plain(entry)
    return f"{_plain(command)} ".startswith(f"{_plain(before)} ")


def _is_listed(command: str) -> bool:
    return any(_is(entry, command) for entry in NOT_RUN)


def _is_slow(command: str) -> bool:
    words = words_of(command)[1]
    others = re.search(r"out(put)?/(?!quickstart)\w+/model_final|output/distant", command)
    many = "--workers" in words
    return subcommand(words) in SLOW or others is not None or words[0] in SLOW or many


def _cases() -> list:
    return [
        pytest.param(page, command, marks=[pytest.mark.slow] if _is_slow(command) else [])
        for page in PAGES
        for command in read_page(page).commands
        if not _is_listed(command)
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("place"), _is_listed)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("page", "command"), _cases())
def test_it_runs(place: Place, page: str, command: str) -> None:
    if "onnx" in command:
        pytest.importorskip("onnxscript", reason="the extra [export] is not installed")
    place.run(page, command)


def _pages_with_code() -> list:
    """That of ONNX Runtime needs an export, which takes seconds."""
    pages = [page for page in PAGES if read_page(page).code]
    return [
        pytest.param(page, marks=[pytest.mark.slow] if "speed" in page else []) for page in pages
    ]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", _pages_with_code())
def test_the_code_of_a_page_runs(place: Place, page: str) -> None:
    if page == "docs/speed.md":
        pytest.importorskip("onnxruntime", reason="the extra [export] is not installed")
        pytest.importorskip("onnxscript", reason="the extra [export] is not installed")
    place.run_code(page)


def test_the_list_has_nothing_that_no_page_has() -> None:
    """A command that is neither run nor on the list is a case of ``test_it_runs`` by itself."""
    there = [command for page in PAGES for command in read_page(page).commands]
    assert [e for e in NOT_RUN if not any(_is(e, command) for command in there)] == []
    assert len(set(map(_plain, NOT_RUN))) == len(NOT_RUN)


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


@pytest.mark.parametrize("command", NOT_RUN)
def test_what_is_not_run_is_understood_at_least(command: str) -> None:
    """The parser takes the line, and the files of the checkout that it names are there."""
    words = words_of(command.removesuffix(" ..."))[1]
    for word in words:
        if re.fullmatch(r"(configs|tools|datasets|docs)/[\w./-]+\.(ya?ml|py|sh)", word):
            assert (ROOT / word).is_file(), word
    found = as_subcommand(words)
    if found is not None:
        try:
            cli.parse(found[0], found[1:], prog=f"vis {found[0]}")
        except SystemExit as end:
            assert end.code == 0, command


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / link).exists(), f"{page} links to {link}"


@pytest.mark.slow
def test_the_logger_of_the_page_gets_the_losses(place: Place) -> None:
    page = "docs/extending.md"
    place.run(page, next(c for c in read_page(page).commands if "mlflow_logger" in c))
    rows = [json.loads(row) for row in (place.of_page(page) / "logged.jsonl").open()]
    assert rows[0] == {"system": "CrossVIS"} and rows[-1] == {"ended": True}
    logged = {name for row in rows[1:-1] for values in row.values() for name in values}
    assert {"total_loss", "lr", "segm/AP"} <= logged


@pytest.mark.slow
def test_own_data_come_out_as_the_page_says(place: Place) -> None:
    page = "docs/own_data.md"
    for command in read_page(page).commands:
        if not _is_listed(command):
            place.run(page, command)
    out = place.of_page(page) / "out"
    assert all((out / name / "overlay.mp4").is_file() for name in ("first", "second", "third"))
    assert "J&F" in (out / "vos/scores.json").read_text()
    assert "AP" in (out / "scores/scores.json").read_text()
    assert "cell" in (out / "third/video.json").read_text()
