"""The command ``vis`` from the outside: help at once, exit codes, one line for bad input."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from vis_projects import cli
from vis_projects.engine.training_step import Diverged
from vis_projects.structures.errors import InputError, one_line, one_line_errors

VIS = [sys.executable, "-m", "vis_command"]


def vis(*words: str, folder: Path | None = None, python: tuple[str, ...] = ()):
    return subprocess.run(
        [sys.executable, *python, "-m", "vis_command", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("words", [[], ["--help"], *([name] for name in cli.SUBCOMMANDS)])
def test_help_comes_without_torch_and_without_arguments(words: list[str], tmp_path: Path) -> None:
    done = vis(*words, folder=tmp_path, python=("-X", "importtime"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    modules = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "argparse" in modules
    assert not {m.split(".")[0] for m in modules} & {"torch", "numpy", "detectron2", "cv2"}


@pytest.mark.parametrize("name", cli.SUBCOMMANDS)
def test_every_subcommand_takes_import(name: str, capsys) -> None:
    parser = argparse.ArgumentParser()
    import_module(f"vis_projects.cli.{name}").add_arguments(parser)
    nested = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for words in [[child] for action in nested for child in action.choices] or [[]]:
        with pytest.raises(SystemExit) as end:
            cli.parse(name, [*words, "--help"], prog=f"vis {name}")
        assert end.value.code == 0
        assert "--import PACKAGE" in capsys.readouterr().out, words


def test_a_mistyped_subcommand_has_a_near_name() -> None:
    done = vis("tain")
    assert done.returncode == 2
    assert done.stderr == "vis: no subcommand 'tain'; did you mean train?\n"


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    done = vis("train", "--config-file", "nowhere.yaml", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("vis train: config file nowhere.yaml: no such file")
    assert done.stderr.count("\n") == 1


WORKER_ERROR = """\
Caught InputError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "x.py", line 3, in f
    raise InputError("a.jpg: this image is truncated")
vis_projects.structures.errors.InputError: a.jpg: this image is truncated
"""


def test_an_error_of_another_process_is_one_line() -> None:
    assert one_line(InputError(WORKER_ERROR)) == "a.jpg: this image is truncated"
    assert one_line(RuntimeError(WORKER_ERROR)) == "a.jpg: this image is truncated"
    kind = f"{Diverged.__module__}.Diverged"
    worker = WORKER_ERROR.replace("vis_projects.structures.errors.InputError", kind)
    assert one_line(RuntimeError(worker)) == "a.jpg: this image is truncated"
    assert one_line(RuntimeError("Traceback (most recent call last):\nKeyError: 3")) is None
    assert one_line(KeyError("a")) is None
    assert one_line(PermissionError(13, "Permission denied", "/x/y")) == "/x/y: Permission denied"


def test_sigterm_ends_in_130_and_runs_the_clean_up(capsys) -> None:
    before, cleaned = signal.getsignal(signal.SIGTERM), []
    with pytest.raises(SystemExit) as end, one_line_errors("vis run"):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            cleaned.append(True)
    assert end.value.code == 130
    assert cleaned
    assert capsys.readouterr().err == "vis run: stopped: SIGTERM\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_our_own_fault_keeps_its_traceback() -> None:
    with pytest.raises(KeyError), one_line_errors("vis run"):
        raise KeyError("a")


def test_ctrl_c_during_the_import_is_one_line(monkeypatch, capsys) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_load_package", interrupt)
    assert cli.main(["data", "check"]) == 130
    assert capsys.readouterr().err == "vis data: stopped\n"
