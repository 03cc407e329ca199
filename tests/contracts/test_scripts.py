"""demo.py and train_net.py from the outside: outputs, errors, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import demo
from vis_projects.engine.benchmark import moving_boxes
from vis_projects.structures import InputError, decode_mask
from vis_projects.video import VideoFileSource, VideoWriter

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs/copy_first/davis2016.yaml")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A folder of frames, an mp4 of the same, and the first frame's mask."""
    images, labels = moving_boxes((48, 64), 2, frames=6)
    (tmp_path / "frames").mkdir()
    for t, image in enumerate(images):
        cv2.imwrite(str(tmp_path / "frames" / f"{t:05d}.jpg"), image)
    with VideoWriter(tmp_path / "clip.mp4") as writer:
        for image in images:
            writer.add(image)
    Image.fromarray(labels[0]).save(tmp_path / "mask.png")
    return tmp_path


def run_demo(clip: Path, source: str, *more: str) -> Path:
    out = clip / "out"
    mask = ["--first-mask", str(clip / "mask.png")]
    demo.main(
        [
            "--config-file",
            CONFIG,
            "--input",
            str(clip / source),
            *mask,
            "--output",
            str(out),
            "--device",
            "cpu",
            *more,
        ]
    )
    return out


@pytest.mark.parametrize("source", ["frames", "clip.mp4"])
def test_demo_writes_everything(clip: Path, source: str) -> None:
    out = run_demo(clip, source)
    assert VideoFileSource(out / "overlay.mp4").length == 6
    maps = sorted((out / "masks").glob("*.png"))
    assert [m.stem for m in maps] == [f"{t:05d}" for t in range(6)]
    wanted = np.asarray(Image.open(clip / "mask.png"))
    with Image.open(maps[5]) as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), wanted)
    video = json.loads((out / "video.json").read_text())
    results = json.loads((out / "results.json").read_text())
    assert [t["id"] for t in video["tracks"]] == [1, 2]
    assert video["frames"] == [f"{t:05d}" for t in range(6)]
    assert np.array_equal(decode_mask(results[1]["segmentations"][3]), wanted == 2)
    assert not list(clip.glob(".out*"))


def test_a_damaged_first_frame_is_named_and_nothing_is_left(clip: Path) -> None:
    (clip / "frames" / "00000.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"00000\.jpg"):
        run_demo(clip, "frames")
    assert not (clip / "out").exists()


def test_demo_keeps_what_is_there(clip: Path) -> None:
    (clip / "out").mkdir()
    (clip / "out" / "precious").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        run_demo(clip, "frames")
    run_demo(clip, "frames", "--overwrite", "--max-frames", "2")
    assert len(list((clip / "out" / "masks").iterdir())) == 2


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((48, 64), np.uint8), "empty"),
        (np.ones((24, 32), np.uint8), "rows x columns"),
        (np.arange(48 * 64 * 3).reshape(48, 64, 3).astype(np.uint8), "colours instead of ids"),
        (None, "no such mask"),
    ],
    ids=["empty", "size", "rgb", "absent"],
)
def test_bad_masks_are_named(clip: Path, mask: np.ndarray | None, message: str) -> None:
    (clip / "mask.png").unlink()
    if mask is not None:
        Image.fromarray(mask).save(clip / "mask.png")
    with pytest.raises(InputError, match=rf"mask\.png.*{message}"):
        run_demo(clip, "frames")


def test_errors_are_one_line_with_exit_code(clip: Path) -> None:
    (clip / "frames" / "00000.jpg").write_bytes(b"")
    command = [
        sys.executable,
        "demo.py",
        "--config-file",
        CONFIG,
        "--input",
        str(clip / "frames"),
        "--first-mask",
        str(clip / "mask.png"),
        "--output",
        str(clip / "out"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("demo.py: ")


@pytest.mark.slow
def test_the_quickstart_leaves_what_the_readme_says(tmp_path: Path) -> None:
    options = {
        "SOLVER.MAX_ITER": "2",
        "DATASETS.TEST": "('synthetic_val:videos=2',)",
        "OUTPUT_DIR": str(tmp_path),
    }
    command = [sys.executable, "train_net.py", "--config-file", "configs/quickstart.yaml"]
    for key, value in options.items():
        command += [key, value]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("model_final.pth", "metrics.json", "curves.png", "overlay.mp4", "report.html"):
        assert (tmp_path / name).stat().st_size, name
    last = (tmp_path / "log.txt").read_text().strip().splitlines()[-1]
    assert last.endswith(f"Report: {tmp_path / 'report.html'}")
    header = (tmp_path / "scores.md").read_text().splitlines()[2]
    assert {"AP", "AP50", "AP_low", "AP_high"} <= {cell.strip() for cell in header.split("|")}


def evaluate_davis(davis_root: Path, out: Path, *launcher: str) -> str:
    command = [
        *launcher,
        "train_net.py",
        "--config-file",
        "configs/copy_first/davis2016.yaml",
        "--eval-only",
        "OUTPUT_DIR",
        str(out),
    ]
    environment = {**os.environ, "DETECTRON2_DATASETS": str(davis_root.parent)}
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def first_scores(printed: str) -> list[str]:
    row = next(line for line in printed.splitlines() if line.replace(" ", "").startswith("|vos|"))
    return [cell.strip() for cell in row.split("|")[2:5]]  # J&F, J, F


def test_copy_first_scores_the_official_figures(davis_root: Path, tmp_path: Path) -> None:
    printed = evaluate_davis(davis_root, tmp_path, sys.executable)
    assert first_scores(printed) == ["27.77", "29.07", "26.48"]


@pytest.mark.slow
def test_two_processes_score_the_same(davis_root: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    printed = evaluate_davis(davis_root, tmp_path, *torchrun)
    assert first_scores(printed) == ["27.77", "29.07", "26.48"]
