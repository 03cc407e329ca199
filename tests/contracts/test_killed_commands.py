"""SIGKILL, SIGTERM and SIGINT at random moments of `vis run` and `vis eval`.

Nothing finished is lost, nothing half is left, and the same command again ends as if nothing had
happened. Trainings: tests/engine/test_stopping.py; many videos: tests/bulk/test_killed.py.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from forked_commands import outcome, start
from PIL import Image

from vis_projects.engine.benchmark import moving_boxes
from vis_projects.structures import VideoResult

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs/copy_first/davis2017.yaml")
SIZE, VIDEOS, FRAMES = (48, 64), 6, 8
SECONDS = 600  # after which a command hangs
# A signal may also come before the command has begun, or when it is done.
ALLOWED = {
    signal.SIGKILL: {-signal.SIGKILL, 0},
    signal.SIGTERM: {130, -signal.SIGTERM, 0},
    signal.SIGINT: {130, 0},
}
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs the forkserver")
kills = pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])


@pytest.fixture
def base(tmp_path: Path) -> Path:
    images, labels = moving_boxes(SIZE, 2, frames=FRAMES)
    for number in range(VIDEOS):
        for part in ("JPEGImages", "Annotations"):
            (tmp_path / "set" / part / f"v{number}").mkdir(parents=True)
        for t in range(FRAMES):
            name = f"v{number}/{t:05d}"
            cv2.imwrite(str(tmp_path / f"set/JPEGImages/{name}.jpg"), images[t])
            Image.fromarray(np.roll(labels[t], number, 1)).save(
                tmp_path / f"set/Annotations/{name}.png"
            )
    return tmp_path


def kill_at_random_moments(
    argv: Callable[[str], list[str]],
    base: Path,
    kills: int,
    check: Callable[[Path], None],
    same: Callable[[Path, Path], None],
) -> None:
    """Kill a command ``kills`` times; whenever it comes to its end, compare and begin anew.

    Args:
        argv: the command that writes into a folder below ``base``.
        check: what holds in the folder at any moment.
        same: what holds between the folders of an undisturbed run and of a killed one at its end.
    """
    log, rng, told = base / "log.txt", random.Random(kills), Counter()
    assert outcome(["--version"], log, seconds=SECONDS) == "0"  # starts the server of forks
    begin = time.monotonic()
    assert outcome(argv("whole"), log, seconds=SECONDS) == "0", log.read_text()
    lasted = time.monotonic() - begin
    for number in range(kills):
        kind = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT][number % 3]
        process = start(argv("killed"), log)
        process.join(rng.uniform(0, lasted))
        with suppress(ProcessLookupError):  # it has come to its end
            os.kill(process.pid, kind)
        process.join(SECONDS)
        assert process.exitcode in ALLOWED[kind], (kind, process.exitcode, log.read_text())
        told[f"{kind.name} {process.exitcode}"] += 1
        check(base / "killed")
        if process.exitcode == 0:
            same(base / "whole", base / "killed")
            shutil.rmtree(base / "killed")
    found = outcome(argv("killed"), log, seconds=SECONDS)
    assert found == "0", log.read_text()
    same(base / "whole", base / "killed")
    print("\nsignal, exit code: count;", ", ".join(f"{k}: {n}" for k, n in sorted(told.items())))


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


# Evaluation ---------------------------------------------------------------------------------------


@kills
def test_an_evaluation_goes_on_where_it_was_killed(base: Path, kills: int) -> None:
    finished: dict[str, tuple[int, bytes]] = {}

    def argv(folder: str) -> list[str]:
        return ["eval", "--config-file", CONFIG, "--num-gpus", "0", "OUTPUT_DIR",
                str(base / folder), "DATASETS.TEST", f"('own_vos:{base}/set',)", "TEST.RESUME",
                "True", "TEST.METRIC_WORKERS", "0"]  # fmt: skip

    def check(folder: Path) -> None:
        for name, (written, data) in finished.items():
            file = folder / name
            assert (file.stat().st_mtime_ns, file.read_bytes()) == (written, data), "done twice"
        for results in folder.glob("inference/*"):
            for file in results.glob("videos/*.json"):
                VideoResult.load(file)
                name = str(file.relative_to(folder))
                finished[name] = file.stat().st_mtime_ns, file.read_bytes()
            for video in results.glob("results/[!.]*"):
                assert len([np.asarray(Image.open(f)) for f in video.iterdir()]) == FRAMES
            for archive in results.glob("*.zip"):
                assert zipfile.ZipFile(io.BytesIO(archive.read_bytes())).testzip() is None
        if (folder / "scores.json").exists():
            json.loads((folder / "scores.json").read_text())

    def same(whole: Path, killed: Path) -> None:
        finished.clear()
        wanted, found = (files(f / "inference") for f in (whole, killed))
        assert found == wanted, found.keys() ^ wanted.keys()
        scores = [json.loads((f / "scores.json").read_text()) for f in (whole, killed)]
        assert scores[0] == scores[1]

    kill_at_random_moments(argv, base, kills, check, same)


# One video ----------------------------------------------------------------------------------------


@kills
def test_a_run_leaves_whole_outputs_or_none(base: Path, kills: int) -> None:
    def argv(folder: str) -> list[str]:
        return ["run", str(base / "set/JPEGImages/v0"), "--config-file", CONFIG, "--first-mask",
                str(base / "set/Annotations/v0/00000.png"), "--device", "cpu", "--output",
                str(base / folder / "o")]  # fmt: skip

    def check(folder: Path) -> None:
        out = folder / "o"
        for file in out.glob("masks/*.png"):
            Image.open(file).load()
        if not (out / "video.json").exists():
            return
        result = VideoResult.load(out)
        if result.length == FRAMES:
            return
        # stopped in the middle: what was done is written, and the next run would not replace it
        assert len(list(out.glob("masks/*.png"))) == result.length
        assert "frames are done and written" in (base / "log.txt").read_text()
        shutil.rmtree(out)

    def same(whole: Path, killed: Path) -> None:
        assert files(killed / "o") == files(whole / "o")

    kill_at_random_moments(argv, base, kills, check, same)
