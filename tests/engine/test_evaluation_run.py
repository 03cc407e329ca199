"""Evaluation from files to files: own videos, `vis eval` with CopyFirst, results and scores."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vis_metrics import evaluate_davis
from vis_projects.cli import main
from vis_projects.data.catalog import registration

CONFIG = "configs/copy_first/davis2017.yaml"
ROOT = Path(__file__).resolve().parents[2]
SIZE = (32, 48)
LENGTH = 5


def moving(ids: tuple[int, ...]) -> np.ndarray:
    maps = np.zeros((LENGTH, *SIZE), np.uint8)
    for t in range(LENGTH):
        for row, k in enumerate(ids):
            maps[t, 3 + 12 * row : 12 + 12 * row, 4 + 2 * t : 20 + 2 * t] = k
    return maps


def write_video(root: Path, name: str, maps: np.ndarray) -> None:
    for t, labels in enumerate(maps):
        frame = np.repeat((labels * 20 + 60)[..., None], 3, axis=2)
        for folder, suffix, array in (
            ("JPEGImages", "jpg", frame),
            ("Annotations", "png", labels),
        ):
            file = root / folder / name / f"{t:05d}.{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(file)


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """Two videos of own_vos; the commands run in the folder around them."""
    for name in ("a", "b"):
        write_video(tmp_path / "set", name, moving((1, 2)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*more: str, name: str = "own_vos:set") -> int:
    registration.unregister_dataset(name)  # as in a new process
    options = ["OUTPUT_DIR", "out", "DATASETS.TEST", f"('{name}',)", *more]
    return main(["eval", "--config-file", CONFIG, "--num-gpus", "0", *options])


def results() -> Path:
    (folder,) = Path("out/inference").iterdir()
    return folder


def damage(file: Path) -> bytes:
    good = file.read_bytes()
    file.write_bytes(good[: len(good) // 3])
    return good


def test_scores_are_those_of_the_files(own):
    assert run() == 0
    scores = json.loads(Path("out/scores.json").read_text())["own_vos:set"]["vos"]
    expected = evaluate_davis(own / "set/Annotations", results(), protocol="semi")
    assert scores["J&F"] == pytest.approx(100 * expected["J&F-Mean"], abs=1e-9)
    assert 20 < scores["J&F"] < 95


def test_one_bad_video_costs_nothing_else(own, capsys):
    frame = own / "set/JPEGImages/a/00003.jpg"
    good = damage(frame)
    assert run() == 3
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "1 video failed" in error and "a/00003.jpg" in error
    assert not Path("out/scores.json").exists()
    states = [json.loads(line) for line in (results() / "manifest.jsonl").read_text().splitlines()]
    assert [(s["name"], s["state"]) for s in states] == [("a", "failed"), ("b", "done")]
    assert "00003.jpg" in states[0]["error"]
    assert run("TEST.SCORE_INCOMPLETE", "True", "TEST.RESUME", "True") == 3
    scores = json.loads(Path("out/scores.json").read_text())["own_vos:set"]["vos"]
    assert [key for key in scores if key.startswith("J&F-")] == ["J&F-b_1", "J&F-b_2"]
    frame.write_bytes(good)
    record = results() / "videos" / "b.json"
    before = record.stat().st_mtime_ns if record.exists() else None
    assert run("TEST.RESUME", "True") == 0
    assert before is None or record.stat().st_mtime_ns == before
    scores = json.loads(Path("out/scores.json").read_text())["own_vos:set"]["vos"]
    assert "J&F-a_1" in scores


def test_nothing_of_an_earlier_evaluation_stands_for_one_that_failed(own):
    assert run() == 0
    archive = results() / "results.zip"
    assert archive.is_file() and Path("out/scores.json").is_file()
    for name in ("a", "b"):
        damage(own / f"set/JPEGImages/{name}/00003.jpg")
    assert run() == 3
    assert not archive.exists() and not Path("out/scores.json").exists()
    assert not list(results().glob("results/*/*.png"))


def test_another_data_set_in_the_same_place(own):
    assert run() == 0
    for kind in ("JPEGImages", "Annotations"):
        shutil.rmtree(own / "set" / kind / "a")
    assert run() == 0
    with zipfile.ZipFile(results() / "results.zip") as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {"b"}
    (own / "set/JPEGImages/b/00003.jpg").unlink()
    (own / "set/Annotations/b/00003.png").unlink()
    assert run() == 0
    assert not (results() / "results/b/00003.png").exists()


def test_names_stay_inside_the_output_folder(own):
    inner = own / "x/y/z"
    inner.mkdir(parents=True)
    os.chdir(inner)
    precious = own / "x/set/videos/clip.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    for _ in range(2):
        assert run(name="own_vos:../../../set") == 0
    assert precious.read_text() == "precious"
    assert sorted(p.name for p in inner.iterdir()) == ["out"]
    folder = results()
    assert not set("/:\\") & set(folder.name) and (folder / "results/a/00000.png").is_file()


def test_gaps_in_ids_do_not_count(own):
    scores = []
    for ids in ((1, 2), (5, 9)):
        shutil.rmtree("set")
        shutil.rmtree("out", ignore_errors=True)
        write_video(own / "set", "a", moving(ids))
        assert run() == 0
        scores.append(json.loads(Path("out/scores.json").read_text())["own_vos:set"]["vos"])
    assert scores[1]["J&F"] == pytest.approx(scores[0]["J&F"])
    assert "J&F-a_9" in scores[1] and "J&F-a_1" not in scores[1]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_and_a_bad_video(own):
    """One line and exit code 3; mended and resumed, the files of one process; no set: 2."""
    write_video(own / "set", "c", moving((1, 2)))
    assert run("OUTPUT_DIR", "one") == 0
    frame = own / "set/JPEGImages/b/00003.jpg"
    good = damage(frame)

    def two(name: str = "own_vos:set"):
        command = [sys.executable, "-W", "ignore", "-m", "vis_command", "eval", "--num-gpus", "2"]
        options = ["OUTPUT_DIR", "two", "DATASETS.TEST", f"('{name}',)", "TEST.RESUME", "True"]
        config = str(ROOT / CONFIG)
        return subprocess.run(
            [*command, "--config-file", config, "MODEL.DEVICE", "cpu", *options],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = two()
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("vis eval: 1 video failed: own_vos:set, b: ") and "00003.jpg" in last
    frame.write_bytes(good)
    done = two()
    assert done.returncode == 0, done.stderr
    for file in ("scores.json", "inference/*/results.zip"):
        (wanted,), (found,) = Path("one").glob(file), Path("two").glob(file)
        assert found.read_bytes() == wanted.read_bytes()
    done = two("own_vos:nowhere")
    assert done.returncode == 2 and "Traceback" not in done.stdout + done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("vis eval: nowhere/JPEGImages: no such")


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_in_the_place_of_the_output_folder(own, capsys, place):
    Path("file").write_text("x")
    assert run("OUTPUT_DIR", place) == 2
    assert capsys.readouterr().err == "vis eval: file: is a file; name a folder with OUTPUT_DIR\n"
