"""The folder of a bulk run is scored like the list that it stands for; uploads keep their order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pycocotools import mask as mask_util

from vis_metrics.errors import ResultFileError
from vis_metrics.files.ytvis_files import read_ground_truth, read_results
from vis_projects.bulk.worker import upload

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
