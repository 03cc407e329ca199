"""The folder of a bulk run is scored like the list that it stands for, by vis-score and vis eval;
uploads keep their order."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
from many_videos import CONFIG, Here
from PIL import Image
from pycocotools import mask as mask_util

from vis_metrics.errors import ResultFileError
from vis_metrics.files.ytvis_files import read_ground_truth, read_results
from vis_projects.bulk import Settings, Worker, make_plan, run_plan
from vis_projects.bulk.worker import upload
from vis_projects.cli import main
from vis_projects.data.catalog import registration
from vis_projects.engine.benchmark import moving_boxes

SIZE = [4, 6]


def rle(rows: int) -> dict:
    import numpy as np

    mask = np.zeros(SIZE, np.uint8, order="F")
    mask[:rows] = 1
    found = mask_util.encode(mask)
    return {"size": SIZE, "counts": found["counts"].decode()}


@pytest.fixture
def truth() -> dict:
    videos = [
        {"id": i, "height": 4, "width": 6, "length": 1, "file_names": [f"{name}/00000.jpg"]}
        for i, name in ((7, "one"), (9, "two"))
    ]
    return {"videos": videos, "categories": [{"id": 1, "name": "a"}], "annotations": []}


def entry(video: int, rows: int) -> dict:
    return {"video_id": video, "category_id": 1, "score": 0.5, "segmentations": [rle(rows)]}


def test_a_bulk_folder_is_the_list_of_its_videos(truth: dict, tmp_path: Path) -> None:
    for name, rows in (("one", 1), ("two", 2), ("other", 3)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps([entry(1, rows)]))
    known = read_ground_truth(truth)
    assert read_results(tmp_path, known) == read_results([entry(7, 1), entry(9, 2)], known)
    (tmp_path / "results.json").write_text(json.dumps([entry(7, 3)]))
    assert read_results(tmp_path, known) == read_results([entry(7, 3)], known)


def test_a_folder_of_other_things_is_named(truth: dict, tmp_path: Path) -> None:
    known = read_ground_truth(truth)
    with pytest.raises(ResultFileError, match="neither results.json"):
        read_results(tmp_path, known)
    (tmp_path / "x").mkdir()
    (tmp_path / "x/results.json").write_text("[]")
    with pytest.raises(ResultFileError, match=r"named like a video.*x against one, two"):
        read_results(tmp_path, known)


def test_vis_eval_takes_a_bulk_folder_for_a_model(tmp_path, monkeypatch, capsys) -> None:
    """The same scores and archive as of the system itself; a video that failed there is named."""
    monkeypatch.chdir(tmp_path)
    images, labels = moving_boxes((48, 64), 2, frames=4)
    for name in ("a", "b"):
        for part in ("JPEGImages", "Annotations"):
            (tmp_path / "set" / part / name).mkdir(parents=True)
        for t in range(4):
            cv2.imwrite(f"set/JPEGImages/{name}/{t}.jpg", images[t])
            Image.fromarray(labels[t]).save(f"set/Annotations/{name}/{t}.png")
    settings = Settings("out", config_file=CONFIG, opts=("MODEL.DEVICE", "cpu"))
    worker = Worker(settings)

    def bulk() -> None:
        plan = make_plan(["set/JPEGImages"], settings, mask="set/Annotations/{name}/0.png")
        worker.settings = plan.settings
        run_plan(plan, Here(worker), lambda report: None)

    def scored(folder: str, *more: str) -> int:
        registration.unregister_dataset("own_vos:set")  # as in a new process
        return main(["eval", "--config-file", CONFIG, "--num-gpus", "0", *more, "OUTPUT_DIR",
                     folder, "DATASETS.TEST", "('own_vos:set',)"])  # fmt: skip

    bulk()
    assert scored("model") == 0
    assert scored("folder", "--results", "out") == 0
    for file in ("scores.json", "inference/own_vos_set-*/results.zip"):
        (wanted,), (found,) = Path("model").glob(file), Path("folder").glob(file)
        assert found.read_bytes() == wanted.read_bytes()
    frame = Path("set/JPEGImages/b/2.jpg")
    whole = frame.read_bytes()
    frame.write_bytes(whole[:300])
    bulk()
    frame.write_bytes(whole)
    capsys.readouterr()
    assert scored("folder", "--results", "out") == 3
    assert "own_vos:set, b: failed in out: set/JPEGImages/b/2.jpg" in capsys.readouterr().err
    assert scored("folder", "--results", "set") == 2
    assert "set: holds neither results.json" in capsys.readouterr().err


def test_a_finished_folder_goes_to_a_place_of_fsspec(tmp_path: Path) -> None:
    import fsspec

    (tmp_path / "v/masks").mkdir(parents=True)
    for name in ("job.json", "masks/0.png", "results.json"):
        (tmp_path / "v" / name).write_text(name)
    upload(tmp_path / "v", "memory://bucket/v")
    system = fsspec.filesystem("memory")
    found = {f: system.cat_file(f).decode() for f in system.find("/bucket")}
    assert found == {
        "/bucket/v/job.json": "job.json",
        "/bucket/v/masks/0.png": "masks/0.png",
        "/bucket/v/results.json": "results.json",
    }
