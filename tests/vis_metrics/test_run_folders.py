"""`vis-score ytvis` over the folders of `vis run`: one video, many, another order of ids."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_util

from vis_metrics import ResultFileError, evaluate_ytvis
from vis_metrics.cli import main

SIZE = [12, 16]


def rle(left: int) -> dict:
    mask = np.zeros(SIZE, np.uint8, order="F")
    mask[2:8, left : left + 6] = 1
    return {"size": SIZE, "counts": mask_util.encode(mask)["counts"].decode()}


@pytest.fixture
def truth(tmp_path) -> Path:
    """Two videos: a cat in one, a dog in the other, with ids of a data set."""
    content = {
        "videos": [
            {"id": i, "height": 12, "width": 16, "length": 2, "file_names": [f"{n}/0", f"{n}/1"]}
            for i, n in ((40, "walk"), (30, "run fast"))
        ],
        "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
        "annotations": [
            {"id": 1, "video_id": 40, "category_id": 7, "segmentations": [rle(3), rle(4)]},
            {"id": 2, "video_id": 30, "category_id": 9, "segmentations": [rle(5), None]},
        ],
    }
    (tmp_path / "gt.json").write_text(json.dumps(content))
    return tmp_path / "gt.json"


def write_run(folder: Path, name: str, category: int, masks: list) -> None:
    """A folder as `vis run` writes it, whose category ids are the model's."""
    folder.mkdir(parents=True)
    entry = {"video_id": 1, "category_id": category, "score": 0.9, "segmentations": masks}
    (folder / "results.json").write_text(json.dumps([entry]))
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    (folder / "video.json").write_text(json.dumps({"name": name, "categories": categories}))


@pytest.fixture
def runs(tmp_path) -> Path:
    write_run(tmp_path / "out/walk", "walk", 2, [rle(3), rle(4)])
    write_run(tmp_path / "out/run_fast-1234", "run fast", 1, [rle(5), None])
    write_run(tmp_path / "out/other", "other", 1, [rle(5), None])  # not in the ground truth
    (tmp_path / "out/manifest.jsonl").write_text("")
    return tmp_path / "out"


def test_many_videos_are_found_by_name(truth, runs, capsys):
    assert evaluate_ytvis(truth, runs)["AP"] == pytest.approx(1.0)
    assert main(["ytvis", "--ground-truth", str(truth), "--results", str(runs)]) == 0
    assert "100.00" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["walk", "walk/results.json"])
def test_one_video(truth, runs, place):
    report = evaluate_ytvis(truth, runs / place)
    assert report["per_category"] == {"cat": pytest.approx(1.0), "dog": 0.0}


def test_nothing_known_and_nothing_there_are_named(truth, runs, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ResultFileError, match=r"empty: is a folder with neither results\.json"):
        evaluate_ytvis(truth, tmp_path / "empty")
    (runs / "other").rename(tmp_path / "far")
    (tmp_path / "only").mkdir()
    (tmp_path / "far").rename(tmp_path / "only/other")
    with pytest.raises(ResultFileError, match="named like a video.*other against"):
        evaluate_ytvis(truth, tmp_path / "only")


def test_one_video_twice_is_named(truth, runs):
    write_run(runs / "again", "walk", 2, [rle(3), rle(4)])
    with pytest.raises(ResultFileError, match="the same video as"):
        evaluate_ytvis(truth, runs)


def test_the_former_format_is_read(truth, tmp_path):
    track = {
        "id": 3, "category": "cat", "score": 0.9, "category_scores": {"6": 0.9},
        "segmentations": [rle(3), rle(4)],
    }  # fmt: skip
    content = {"system": "X", "height": 12, "width": 16, "frames": ["0", "1"], "tracks": [track]}
    (tmp_path / "walk").mkdir()
    (tmp_path / "walk/results.json").write_text(json.dumps(content))
    report = evaluate_ytvis(truth, tmp_path / "walk/results.json")
    assert report["per_category"]["cat"] == pytest.approx(1.0)
