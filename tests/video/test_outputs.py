"""What ``vis run`` leaves: whole results, nothing foreign touched, what was done when stopped."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from vis_projects.cli import run_script
from vis_projects.engine.benchmark import moving_boxes
from vis_projects.structures import InputError, VideoResult
from vis_projects.video import VideoFileSource, VideoPredictor, VideoWriter
from vis_projects.video.demo_output import run_demo
from vis_projects.video.output_folder import RECORD, OutputFolder

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs/copy_first/davis2017.yaml")
FRAMES = 6
OUTPUTS = {"overlay.mp4", "masks", "results.json", "video.json", RECORD}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """``frames/``, ``clip.mp4`` and ``m.png`` in one folder, as users have them."""
    images, labels = moving_boxes((48, 64), 2, frames=FRAMES)
    (tmp_path / "frames").mkdir()
    for t, image in enumerate(images):
        cv2.imwrite(str(tmp_path / "frames" / f"{t:05d}.jpg"), image)
    with VideoWriter(tmp_path / "clip.mp4") as writer:
        for image in images:
            writer.add(image)
    Image.fromarray(labels[0]).save(tmp_path / "m.png")
    return tmp_path


def command(place: Path, output: str | Path, *more: str, source: str = "frames") -> list[str]:
    paths = ["--input", str(place / source), "--first-mask", str(place / "m.png")]
    return ["--config-file", CONFIG, *paths, "--output", str(output), "--device", "cpu", *more]


def run(place: Path, output: str | Path, *more: str, source: str = "frames") -> int:
    return run_script("run", command(place, output, *more, source=source), prog="vis run")


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_overwrite_touches_nothing_else(place: Path, capsys) -> None:
    (place / "thesis.txt").write_text("x")
    before = names(place)
    assert run(place, place, source="clip.mp4") == 2
    assert "not empty" in capsys.readouterr().err
    assert names(place) == before
    assert run(place, place, "--overwrite", source="clip.mp4") == 0
    assert names(place) == before | OUTPUTS
    assert run(place, place, "--overwrite", "--max-frames", "2", source="clip.mp4") == 0
    assert names(place) == before | OUTPUTS
    assert len(list((place / "masks").iterdir())) == 2  # the old run's other masks are gone
    (place / "masks" / "mine.png").write_bytes(b"")
    assert run(place, place, "--overwrite", source="clip.mp4") == 2
    assert "mine.png: is in the way" in capsys.readouterr().err
    assert (place / "thesis.txt").read_text() == "x"


def test_the_working_directory_as_output(place: Path, monkeypatch) -> None:
    monkeypatch.chdir(place)
    before = names(place)
    assert run(place, ".", "--overwrite", source="clip.mp4") == 0
    assert names(place) == before | OUTPUTS


@pytest.mark.parametrize("source", ["frames", "out/overlay.mp4", "out/masks"])
def test_an_input_is_never_replaced(place: Path, source: str, capsys) -> None:
    assert run(place, place / "out") == 0
    output = place / source if source == "frames" else place / "out"
    before = {f: f.read_bytes() for f in place.rglob("*") if f.is_file()}
    capsys.readouterr()
    assert run(place, output, "--overwrite", source=source) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert {f: f.read_bytes() for f in place.rglob("*") if f.is_file()} == before


def test_a_foreign_file_of_an_output_name_is_not_replaced(place: Path, capsys) -> None:
    (place / "out").mkdir()
    (place / "out" / "results.json").write_text("[1]")
    assert run(place, place / "out", "--overwrite") == 2
    assert "was not written by this program" in capsys.readouterr().err
    assert (place / "out" / "results.json").read_text() == "[1]"


def test_outputs_of_an_older_version_are_known(place: Path) -> None:
    out = place / "out"
    (out / "masks").mkdir(parents=True)
    for name in ("overlay.mp4", "masks/a.png", "notes.txt"):
        (out / name).write_text("old")
    old = {"system": "CopyFirst", "height": 1, "width": 1, "frames": ["a"], "tracks": []}
    (out / "results.json").write_text(json.dumps(old))
    assert run(place, out, "--overwrite") == 0
    assert names(out) == OUTPUTS | {"notes.txt"}
    assert "a.png" not in names(out / "masks")


def test_a_symlink_is_written_into(place: Path) -> None:
    (place / "real").mkdir()
    (place / "link").symlink_to("real")
    assert run(place, place / "link") == 0
    assert (place / "link").is_symlink()
    assert names(place / "real") == OUTPUTS


def test_the_parent_is_left_alone(place: Path) -> None:
    """Nothing is made beside the output folder: it may be a mount point, its parent read-only."""
    (place / "parent" / "out").mkdir(parents=True)
    stamp = (place / "parent").stat().st_mtime_ns
    assert run(place, place / "parent" / "out") == 0
    assert (place / "parent").stat().st_mtime_ns == stamp


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_closed_folder_is_named_before_the_work(place: Path, capsys) -> None:
    (place / "out").mkdir(mode=0o555)
    assert run(place, place / "out") == 2
    assert "cannot be written" in capsys.readouterr().err


def test_an_output_below_a_file(place: Path, capsys) -> None:
    assert run(place, place / "m.png" / "out") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_damaged_frame_ends_the_video_but_not_the_work(place: Path, capsys) -> None:
    bad = place / "frames" / "00003.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    assert run(place, place / "out") == 3
    told = capsys.readouterr()
    assert "00003.jpg" in told.err and "3 of 6 frames are done" in told.err
    assert VideoFileSource(place / "out" / "overlay.mp4").length == 3
    assert len(list((place / "out" / "masks").iterdir())) == 3
    result = VideoResult.load(place / "out")
    assert result.length == 3
    assert all(len(t.masks) == 3 for t in result.tracks)


class Slow:
    """A camera: frames for ever; the signal comes after three of them."""

    def __init__(self, image: np.ndarray, number: int) -> None:
        self.image, self.number = image, number

    def __iter__(self):
        for t in range(1000):
            if t == 8:
                os.kill(os.getpid(), self.number)
                time.sleep(0.5)
            yield self.image


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_camera_keeps_what_is_done(place: Path, number: int) -> None:
    images, labels = moving_boxes((48, 64), 2, frames=1)
    predictor = VideoPredictor(CONFIG, device="cpu")
    from vis_projects.video import open_source

    source = open_source(iter(Slow(images[0], number)), image_format="BGR")
    before = signal.getsignal(number)
    outcome = run_demo(predictor, source, place / "out", masks=labels[0])
    assert signal.getsignal(number) == before
    assert outcome.exit_code == 130
    assert 1 <= outcome.frames < 20
    assert f"{outcome.frames} frames are done" in outcome.missing
    assert VideoFileSource(place / "out" / "overlay.mp4").length == outcome.frames
    assert VideoResult.load(place / "out").length == outcome.frames
    assert names(place / "out") == OUTPUTS


def test_a_killed_run_leaves_nothing_half(place: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from vis_projects.video import demo_output\n"
        "def write(*a, **k): os.kill(os.getpid(), signal.SIGKILL)\n"
        "demo_output.write_pair = write\n"
        "from vis_projects.cli import run_script\n"
        "run_script('run', sys.argv[1:], prog='vis run')\n"
    )
    argv = command(place, place / "out")
    done = subprocess.run([sys.executable, "-c", code, *argv], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = (place / "out").iterdir()
    assert left.name.startswith(".vis_projects-partial-")
    assert run(place, place / "out") == 0  # without --overwrite: it is no foreign file
    assert names(place / "out") == OUTPUTS


def full(*unused: object, **more: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_fills_up_costs_the_overlay_alone(place: Path, monkeypatch, capsys) -> None:
    add = VideoWriter.add

    frames = []

    def counted(self, image, time=None) -> None:
        frames.append(image)
        full() if len(frames) > 3 else add(self, image, time)

    monkeypatch.setattr(VideoWriter, "add", counted)
    monkeypatch.setattr(VideoWriter, "__exit__", full)
    assert run(place, place / "out") == 3
    assert "overlay.mp4 cannot be written (No space left on device); 3 of 6 frames are done" in (
        capsys.readouterr().err
    )
    assert names(place / "out") == OUTPUTS - {"overlay.mp4"}
    assert VideoResult.load(place / "out").length == len(list((place / "out/masks").iterdir())) == 3


def test_a_full_disk_costs_the_masks_before_the_tracks(place: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(VideoResult, "to_davis", full)
    assert run(place, place / "out") == 3
    assert "masks/ cannot be written (No space left on device), results.json holds" in (
        capsys.readouterr().err
    )
    assert names(place / "out") == OUTPUTS - {"masks"}
    assert VideoResult.load(place / "out").length == FRAMES
    monkeypatch.setattr("vis_projects.video.demo_output.write_pair", full)
    assert run(place, place / "none") == 2
    assert "none: the results cannot be written (No space left" in capsys.readouterr().err
    assert not (place / "none").exists()


def test_a_run_that_was_killed_while_it_put_files_in_place(place: Path, capsys) -> None:
    """The next run takes the place of what there is, without being told to; others' files stay."""
    out = place / "out"
    assert run(place, out) == 0
    record = json.loads((out / RECORD).read_text())
    (out / RECORD).write_text(json.dumps({**record, "unfinished": True}))
    (out / "results.json").unlink()
    assert run(place, out) == 0
    assert names(out) == OUTPUTS
    assert run(place, out) == 2  # finished: not without --overwrite
    (out / RECORD).write_text(json.dumps({**record, "unfinished": True}))
    (out / "mine.txt").write_text("x")
    assert run(place, out) == 2
    assert (out / "mine.txt").read_text() == "x"


def test_more_than_255_ids(place: Path) -> None:
    images, _ = moving_boxes((48, 64), 1, frames=2)
    labels = np.zeros((48, 64), np.uint16)
    labels[:4, :] = 300
    labels[4:8, :] = 2
    predictor = VideoPredictor(CONFIG, device="cpu")
    from vis_projects.video import open_source

    run_demo(predictor, open_source(list(images)), place / "out", masks=labels)
    with Image.open(place / "out" / "masks" / "00001.png") as image:
        assert image.mode == "I;16"
        assert np.array_equal(np.asarray(image), labels)


def test_results_are_the_list_that_scorers_read(place: Path) -> None:
    assert run(place, place / "out") == 0
    entries = json.loads((place / "out" / "results.json").read_text())
    assert {frozenset(e) for e in entries} == {
        frozenset({"video_id", "category_id", "score", "segmentations"})
    }
    from vis_metrics import evaluate_ytvis

    truth = {
        "videos": [{"id": 1, "length": FRAMES, "height": 48, "width": 64, "file_names": ["x"] * 6}],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [
            {
                "id": number,
                "video_id": 1,
                "category_id": 1,
                "iscrowd": 0,
                "segmentations": e["segmentations"],
                "areas": [100] * FRAMES,
                "bboxes": [[0, 0, 9, 9]] * FRAMES,
            }
            for number, e in enumerate(entries, 1)
        ],
    }
    assert evaluate_ytvis(truth, entries)["AP"] == 1


def test_partial_folders_of_living_runs_stay(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "out") as folder:
        (folder.partial / "a").write_text("1")
        with pytest.raises(InputError, match="not empty"):
            OutputFolder(tmp_path / "out")
        folder.commit()
    assert names(tmp_path / "out") == {"a", RECORD}


def test_offline_systems_show_how_far_they_are(place: Path, capsys) -> None:
    argv = [
        *("--config-file", "configs/seq_mask_rcnn/quickstart_synthetic.yaml", "--device", "cpu"),
        *("--input", str(place / "frames"), "--output", str(place / "out")),
        *("MODEL.ALLOW_MISSING_WEIGHTS", "True"),
    ]
    assert run_script("run", argv, prog="vis run") == 0
    told = capsys.readouterr().err
    assert "looking at the video" in told
    assert f"{FRAMES}/{FRAMES}" in told
    assert names(place / "out") == OUTPUTS
