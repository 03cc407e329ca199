"""Tracks in the formats of other programs: round trips and hand-made expectations."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from vis_projects.cli import main
from vis_projects.structures import InputError, Track, VideoResult, encode_masks
from vis_projects.structures.exports import write_pair
from vis_projects.structures.foreign_results import read_result
from vis_projects.structures.palette import id_colour


def made(ids: tuple[int, ...] = (3, 7)) -> VideoResult:
    """Two frames of 4 x 6: a 2 x 3 box at (row 1, column 2) in both, a full row in the second."""
    masks = np.zeros((2, 2, 4, 6), bool)
    masks[0, :, 1:3, 2:5] = True
    masks[1, 1, 3] = True
    tracks = []
    for i, scores in zip(range(2), ({1: 0.8, 0: 0.1}, {0: 0.5})):
        rles = [encode_masks(m[None])[0] if m.any() else None for m in masks[i]]
        tracks.append(Track(ids[i], scores, rles))
    return VideoResult(
        tracks,
        (4, 6),
        2,
        class_names=("cat", "dog", "owl"),
        category_ids=(10, 20, 30),
        frame_names=("a", "b"),
        name="clip",
    )


def same(a: VideoResult, b: VideoResult) -> bool:
    return plain(a) == plain(b)


def plain(result: VideoResult) -> dict:
    """All fields; sequences as lists whatever they were."""
    listed = (result.class_names, result.category_ids, result.frame_names)
    fields = {**dataclasses.asdict(result), "listed": [list(names) for names in listed]}
    return {k: v for k, v in fields.items() if k not in LISTED}


LISTED = ("class_names", "category_ids", "frame_names")


@pytest.mark.parametrize("name", ["r.json", "r.json.gz"])
def test_save_and_load(tmp_path: Path, name: str) -> None:
    file = made().save(tmp_path / "new" / name)
    assert same(VideoResult.load(file), made())
    assert [f.name for f in file.parent.iterdir()] == [name]


def test_the_pair_of_files_is_read_back(tmp_path: Path) -> None:
    write_pair(made(), tmp_path, more={"system": "X"})
    assert same(VideoResult.load(tmp_path), made())
    assert same(VideoResult.load(tmp_path / "results.json"), made())
    video = json.loads((tmp_path / "video.json").read_text())
    assert video["system"] == "X"
    assert [(t["id"], t["category_id"], t["entries"]) for t in video["tracks"]] == [
        (3, 20, [0, 1]),
        (7, 10, [2]),
    ]


def test_ytvis_entries_are_one_per_category() -> None:
    entries = made().to_ytvis(5)
    assert [(e["video_id"], e["category_id"], e["score"]) for e in entries] == [
        (5, 10, 0.1),
        (5, 20, 0.8),
        (5, 10, 0.5),
    ]
    assert entries[2]["segmentations"][0] is None
    assert len(made().to_ytvis(min_score=0.6)) == 2
    unknown = dataclasses.replace(made(), category_ids=None, class_names=None)
    assert [e["category_id"] for e in unknown.to_ytvis()] == [1, 2, 1]  # counted from 1


def test_coco_holds_every_mask() -> None:
    coco = made().to_coco()
    assert [i["file_name"] for i in coco["images"]] == ["a.jpg", "b.jpg"]
    rows = [(a["image_id"], a["track_id"], a["area"], a["bbox"]) for a in coco["annotations"]]
    assert rows == [
        (1, 3, 6, [2.0, 1.0, 3.0, 2.0]),
        (2, 3, 6, [2.0, 1.0, 3.0, 2.0]),
        (2, 7, 6, [0.0, 3.0, 6.0, 1.0]),
    ]
    assert coco["categories"][1] == {"id": 20, "name": "dog"}
    assert len({a["id"] for a in coco["annotations"]}) == 3
    assert mask_util.decode(coco["annotations"][0]["segmentation"]).sum() == 6


def test_mot_lines() -> None:
    assert made().to_mot().splitlines() == [
        "1,3,3,2,3,2,0.8,20,1",
        "2,3,3,2,3,2,0.8,20,1",
        "2,7,1,4,6,1,0.5,10,1",
    ]


@pytest.mark.parametrize(("ids", "mode"), [((3, 7), "P"), ((3, 700), "I;16")])
def test_davis_files_keep_every_id(tmp_path: Path, ids: tuple[int, int], mode: str) -> None:
    files = made(ids).to_davis(tmp_path)
    assert [f.name for f in files] == ["a.png", "b.png"]
    with Image.open(files[1]) as image:
        assert image.mode == mode
        labels = np.asarray(image)
        if mode == "P":
            assert tuple(image.getpalette()[9:12]) == id_colour(3)
    assert np.array_equal(labels, made(ids).to_labels()[1])
    assert labels[1, 2] == ids[0] and labels[3, 0] == ids[1]


def test_supervision_detections(monkeypatch) -> None:
    class Detections(SimpleNamespace):
        empty = staticmethod(lambda: Detections(xyxy=np.zeros((0, 4))))

    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=Detections))
    first, second = made().to_supervision()
    assert first.xyxy.tolist() == [[2, 1, 5, 3]]
    assert second.tracker_id.tolist() == [7, 3]  # paint order, the better last
    assert second.mask.shape == (2, 4, 6)
    assert second.data["class_name"].tolist() == ["cat", "dog"]


def test_other_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    (tmp_path / "y.json").write_text("{")
    for name, text in (("x.json", "no saved"), ("y.json", "no readable"), ("z.json", "cannot")):
        with pytest.raises(InputError, match=rf"{name}.*{text}"):
            VideoResult.load(tmp_path / name)


FORMATS = {
    "ytvis": "r.json",
    "coco": "r.json",
    "davis": "maps",
    "labels": "r.npy",
    "saved": "r.json.gz",
}


@pytest.mark.parametrize("kind", FORMATS)
def test_the_command_writes_what_it_reads(tmp_path: Path, kind: str) -> None:
    """A run's folder to each format, and from there to label maps: the same masks."""
    write_pair(made(), tmp_path / "run")
    there = tmp_path / "new" / FORMATS[kind]
    argv = ["export", "results", str(tmp_path / "run"), "--to", kind, "--output", str(there)]
    assert main(argv) == 0
    back = str(tmp_path / "back.npy")
    assert main(["export", "results", str(there), "--to", "labels", "--output", back]) == 0
    found, wanted = np.load(back), made().to_labels()
    assert found.shape == wanted.shape
    if kind == "ytvis":  # which has no ids, and an entry for each category of a tube
        found, wanted = found > 0, wanted > 0
    assert np.array_equal(found, wanted)
    result = read_result(there)
    if kind in ("saved", "coco"):
        assert list(result.class_names)[:2] == ["cat", "dog"]
        assert list(result.frame_names) == ["a", "b"]
        assert sorted(t.id for t in result.tracks) == [3, 7]


def test_many_videos_and_what_the_command_refuses(tmp_path: Path, capsys) -> None:
    for name in ("one", "two"):
        write_pair(made(), tmp_path / "out" / name)
    argv = ["export", "results", str(tmp_path / "out"), "--to"]
    assert main([*argv, "mot", "--output", str(tmp_path / "mot")]) == 0
    assert (tmp_path / "mot/two.txt").read_text() == made().to_mot()
    assert main([*argv, "mot", "--output", str(tmp_path / "mot")]) == 2
    assert "mot: is there already" in capsys.readouterr().err
    assert main([*argv, "coco", "--output", str(tmp_path / "mot/two.txt/x")]) == 2
    assert "two.txt: is a file" in capsys.readouterr().err
    for given, words in (
        ("mot/two.txt", "no result with masks"),
        ("nowhere", "no such result"),
        ("out/one/video.json", "no saved VideoResult"),
    ):
        argv = ["export", "results", str(tmp_path / given), "--to", "coco", "--output"]
        assert main([*argv, str(tmp_path / "x.json")]) == 2
        assert words in capsys.readouterr().err
