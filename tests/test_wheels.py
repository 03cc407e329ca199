"""The three wheels in a fresh environment and an empty folder: every command works there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch

from vis_projects.engine.benchmark import moving_boxes

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "tests/example_system"
SOURCES = ("vis_projects", "vis_metrics", "detectron2_lite", "configs")
SMALL = ["SOLVER.MAX_ITER", "20", "DATASETS.TEST", "('synthetic_val:videos=1:length=4',)"]
SMALL += ["SOLVER.IMS_PER_BATCH", "2", "DATASETS.TRAIN", "('synthetic_train:videos=4',)"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A virtual environment with the wheels; the packages of others come from this one."""
    folder = tmp_path_factory.mktemp("installed")
    sources = folder / "sources"  # a folder build/ of an earlier version would get into the wheel
    for name in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist")
        shutil.copytree(ROOT / name, sources / name, ignore=ignored)
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "vis_command.py"):
        shutil.copy(ROOT / file, sources / file)
    parts = ["./vis_metrics", "./detectron2_lite", "."]
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder)]
    subprocess.run([*wheel, *parts], cwd=sources, check=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = folder / "venv/bin/python"
    wheels = sorted(map(str, folder.glob("*.whl")))
    assert len(wheels) == 3
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, *wheels], check=True)
    site = next((folder / "venv/lib").glob("python*/site-packages"))
    (site / "zz_others.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    return folder / "venv/bin"


def vis(installed: Path, folder: Path, *words: str, **more: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(installed / "vis"), *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**environment, **more},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_commands_work_from_wheels_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    vis(installed, tmp_path, "train", "--config-file", "configs/quickstart.yaml", *SMALL)
    weights = tmp_path / "output/quickstart/model_final.pth"
    assert weights.is_file() and (weights.parent / "overlay.mp4").is_file()
    (tmp_path / "frames").mkdir()
    for t, image in enumerate(moving_boxes((48, 64), 2, frames=4)[0]):
        cv2.imwrite(str(tmp_path / f"frames/{t}.jpg"), image)
    vis(installed, tmp_path, "run", "frames", "--weights", str(weights), "--output", "out")
    assert len(list((tmp_path / "out/masks").glob("*.png"))) == 4
    found = vis(installed, tmp_path, "data", "check", "synthetic_val:videos=2")
    assert "good; 2 videos" in found
    speed = ["bench", "--config-file", "configs/quickstart.yaml", "--size", "48x64"]
    assert "median_ms" in vis(installed, tmp_path, *speed, "--frames", "3", "--warm-up", "1")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_example_system_trains_from_wheels(installed: Path, tmp_path: Path) -> None:
    options = ["DATASETS.TRAIN", "('synthetic_uvos_train:videos=4:length=4:size=48x64',)"]
    options += ["DATASETS.TEST", "()", "SOLVER.MAX_ITER", "5", "OUTPUT_DIR", "out"]
    config = str(EXAMPLE / "moving_foreground.yaml")
    words = ["train", "--import", "moving_foreground", "--config-file", config, *options]
    vis(installed, tmp_path, *words, PYTHONPATH=str(EXAMPLE))
    assert (tmp_path / "out/model_final.pth").is_file()
