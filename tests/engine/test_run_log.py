"""A run's console is short; its log file has everything. Errors of any process are one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

QUICK = ["--config-file", "configs/quickstart.yaml"]
SMALL = ["DATASETS.TRAIN", "('synthetic_train:videos=2:length=4',)"]
SMALL += ["DATASETS.TEST", "('synthetic_val:videos=1:length=3',)", "SOLVER.MAX_ITER", "2"]
SMALL += ["SOLVER.IMS_PER_BATCH", "2", "OUTPUT_DIR", "out"]


def vis(*words: str, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "vis_command", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_options_go_to_the_file_and_a_finished_run_is_kept(tmp_path: Path) -> None:
    done = vis("train", *QUICK, *SMALL, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SOLVER.MAX_ITER 2" in done.stdout
    assert "CrossVIS on c" in done.stdout
    assert "TRACKER:" not in done.stdout and "CUDA_HOME" not in done.stdout
    assert len(done.stdout.splitlines()) < 150, len(done.stdout.splitlines())
    log = (tmp_path / "out/log.txt").read_text()
    assert "TRACKER:" in log and "Environment info" in log and "Conv2d" in log
    again = vis("train", *QUICK, *SMALL, folder=tmp_path)
    assert again.returncode == 2
    assert again.stderr.startswith("vis train: OUTPUT_DIR out holds a finished training")
    assert again.stderr.count("\n") == 1
    assert vis("train", "--resume", *QUICK, *SMALL, folder=tmp_path).returncode == 0
    assert vis("train", "--overwrite", *QUICK, *SMALL, folder=tmp_path).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_bad_frame_met_in_a_worker_is_one_line(processes: int, tmp_path: Path) -> None:
    """In a worker of the loader, and in one of two processes on free ports."""
    options = [*SMALL, "DATALOADER.NUM_WORKERS", "1"]
    made = vis(
        *("data", "convert", "synthetic", "--out", "clips"),
        *("--name", "synthetic_train:videos=3:length=4:size=48x64"),
        folder=tmp_path,
    )
    assert made.returncode == 0, made.stderr
    frames = [f for f in (tmp_path / "clips").rglob("*.*g") if f.suffix in (".jpg", ".png")]
    for image in frames:
        image.write_bytes(image.read_bytes()[:300])
    name = next(f for f in (tmp_path / "clips").rglob("*.json")).relative_to(tmp_path)
    images = frames[0].parents[1].relative_to(tmp_path)
    options[1] = f"('own_vis:{name}:{images}',)"
    done = vis("train", *QUICK, "--num-gpus", str(processes), *options, folder=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    errors = [row for row in done.stderr.splitlines() if row.startswith("vis train: ")]
    assert len(errors) == 1 and f"{frames[0].suffix}: " in errors[0], done.stderr
    assert "Traceback" not in done.stdout + done.stderr
