"""A system outside the package: trained, scored and run by the commands, with ``--import``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from vis_projects.engine.benchmark import moving_boxes

HERE = Path(__file__).parent
CONFIG = str(HERE / "moving_foreground.yaml")
SMALL = ["DATASETS.TRAIN", "('synthetic_uvos_train:videos=4:length=4:size=48x64',)"]
SMALL += ["DATASETS.TEST", "('synthetic_uvos_val:videos=2:length=4:size=48x64',)"]
SMALL += ["SOLVER.MAX_ITER", "30", "OUTPUT_DIR", "out"]


def vis(command: str, *words: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "vis_command", command, "--import", "moving_foreground", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(HERE)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_it_trains_scores_and_runs(tmp_path: Path) -> None:
    vis("train", "--config-file", CONFIG, *SMALL, folder=tmp_path)
    rows = [json.loads(row) for row in (tmp_path / "out/metrics.json").read_text().splitlines()]
    losses = [row["loss_mask"] for row in rows if "loss_mask" in row]
    assert losses[-1] < losses[0]
    assert (tmp_path / "out/scores.md").is_file()
    weights = str(tmp_path / "out/model_final.pth")
    vis("eval", "--config-file", CONFIG, "--weights", weights, *SMALL, folder=tmp_path)
    (tmp_path / "frames").mkdir()
    for t, image in enumerate(moving_boxes((48, 64), 2, frames=4)[0]):
        cv2.imwrite(str(tmp_path / f"frames/{t:05d}.jpg"), image)
    vis(
        *("run", "--config-file", CONFIG, "--weights", weights),
        *("--input", "frames", "--output", "result"),
        folder=tmp_path,
    )
    assert len(list((tmp_path / "result/masks").glob("*.png"))) == 4
    command = ["run", "frames", "--weights", weights, "--output", "alone"]
    alone = subprocess.run(
        [sys.executable, "-m", "vis_command", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert alone.returncode == 2
    assert "system MovingForeground is not here: add --import moving" in alone.stderr


def test_without_import_the_error_names_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vis_command", "train", "--config-file", CONFIG],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "MODEL.MOVING_FOREGROUND" in done.stderr
    assert "--import PACKAGE" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("code", "message"),
    [(None, "no such package"), ("import nowhere_to_be_found", "nowhere_to_be_found")],
)
def test_a_package_that_does_not_import_is_one_line(
    code: str | None, message: str, tmp_path: Path
) -> None:
    if code is not None:
        (tmp_path / "my_system.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "vis_command", "eval", "--import", "my_system"]
        + ["--config-file", CONFIG],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("vis eval: --import my_system: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_installed_package_joins_and_a_broken_one_is_a_warning(tmp_path: Path) -> None:
    """Entry points, as pip would install them."""
    for name, target in (("moving_foreground", "moving_foreground"), ("broken", "broken_system")):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[vis_projects.systems]\n{name} = {target}\n")
    (tmp_path / "broken_system.py").write_text("1 / 0\n")
    code = (
        "import vis_projects\n"
        f"print(vis_projects.load_config({CONFIG!r}).MODEL.META_ARCHITECTURE)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(HERE)])},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "MovingForeground\n"
    assert "the plug-in broken (broken_system) is left out" in done.stderr
    assert "ZeroDivisionError" in done.stderr
