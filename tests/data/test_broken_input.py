"""Broken data sets end in one line that names the file, the entry and what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import trees

from vis_projects import get_cfg
from vis_projects.data import build_test_loader, load_videos, read_objects
from vis_projects.structures import InputError


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def explained(error: pytest.ExceptionInfo, words: tuple[str, ...]) -> None:
    text = str(error.value)
    assert "\n" not in text and len(text) < 1000
    for word in words:
        assert word in text, text


# The YouTube-VIS json ----------------------------------------------------------------------------

Edit = Callable[[dict], object]


def setting(*path, value) -> Edit:
    def edit(truth: dict) -> None:
        for key in path[:-1]:
            truth = truth[key]
        truth[path[-1]] = value

    return edit


def deleting(*path) -> Edit:
    def edit(truth: dict) -> None:
        for key in path[:-1]:
            truth = truth[key]
        del truth[path[-1]]

    return edit


FIRST = ("annotations", 0)
JSON_CASES = {
    "no videos key": (deleting("videos"), ("train.json", "'videos' is missing")),
    "empty videos": (setting("videos", value=[]), ("'videos' is empty",)),
    "no categories": (deleting("categories"), ("'categories' is missing",)),
    "empty categories": (setting("categories", value=[]), ("'categories' is empty",)),
    "category without name": (deleting("categories", 1, "name"), ("category 2", "'name'")),
    "duplicate category": (setting("categories", 1, "id", value=1), ("category id 1", "twice")),
    "duplicate video": (setting("videos", 1, "id", value=1), ("video id 1", "twice")),
    "video without height": (deleting("videos", 0, "height"), ("video 1", "'height' is missing")),
    "height as text": (setting("videos", 0, "height", value="96"), ("video 1", "height is '96'")),
    "no rows": (setting("videos", 0, "height", value=0), ("video 1", "0 x 160")),
    "video without frames": (setting("videos", 0, "file_names", value=[]), ("no frames",)),
    "wrong length": (setting("videos", 0, "length", value=9), ("length is 9", "4 entries")),
    "frames no text": (setting("videos", 0, "file_names", 0, value=3), ("no text",)),
    "video is a list": (setting("videos", 0, value=[]), ("video number 0", "list")),
    "annotation without id": (deleting(*FIRST, "id"), ("annotation number 0", "'id'")),
    "duplicate annotation": (setting(*FIRST, "id", value=2), ("annotation id 2", "twice")),
    "annotation id 0": (setting(*FIRST, "id", value=0), ("annotation 0", "positive")),
    "unknown video": (setting(*FIRST, "video_id", value=77), ("annotation 1", "no video 77")),
    "unknown category": (setting(*FIRST, "category_id", value=9), ("no category 9",)),
    "no segmentations": (deleting(*FIRST, "segmentations"), ("annotation 1", "'segmentations'")),
    "short segmentations": (
        setting(*FIRST, "segmentations", value=[None]),
        ("annotation 1", "1 entries", "4 frames"),
    ),
    "short areas": (setting(*FIRST, "areas", value=[1, 2]), ("areas has 2 entries",)),
    "box of three": (setting(*FIRST, "bboxes", 0, value=[1, 2, 3]), ("frame 0", "[1, 2, 3]")),
    "box of infinity": (
        setting(*FIRST, "bboxes", 0, value=[0, 0, float("inf"), 3]),
        ("frame 0", "no box"),
    ),
    "mask of another size": (
        setting(*FIRST, "segmentations", 0, "size", value=[160, 96]),
        ("annotation 1, frame 0", "[160, 96]", "[96, 160]"),
    ),
    "runs too short": (
        setting(*FIRST, "segmentations", 0, "counts", value=[5, 5]),
        ("annotation 1, frame 0", "10 pixels"),
    ),
    "mask is text": (setting(*FIRST, "segmentations", 0, value="abc"), ("neither an RLE",)),
    "mask without size": (deleting(*FIRST, "segmentations", 0, "size"), ("neither an RLE",)),
    "annotations are an object": (setting("annotations", value={}), ("annotations is {}",)),
    "images elsewhere": (
        setting("videos", 0, "file_names", 0, value="other/00000.jpg"),
        ("other/00000.jpg", "video 1", "missing"),
    ),
}


@pytest.fixture(scope="module")
def good_json(tmp_path_factory) -> tuple[Path, str]:
    """Write a correct set once; the cases edit copies of its json."""
    base = tmp_path_factory.mktemp("good")
    truth = trees.write_ytvis(base / "ytvis_2019/train.json", base / "ytvis_2019/train/JPEGImages")
    return base / "ytvis_2019/train/JPEGImages", json.dumps(truth)


@pytest.mark.parametrize("case", JSON_CASES)
def test_broken_ytvis_json(case, good_json, tmp_path):
    images, text = good_json
    edit, words = JSON_CASES[case]
    truth = json.loads(text)
    edit(truth)
    file = tmp_path / "train.json"
    file.write_text(json.dumps(truth))
    with pytest.raises(InputError) as error:
        load_videos(f"own_vis:{file}:{images}")
    explained(error, words)


TEXTS = {
    "cut off": ('{"videos": [{"id": 1,', ("line 1", "syntax error")),
    "empty file": ("", ("syntax error",)),
    "a result file": ("[]", ("top level is a list", "result file")),
    "still zipped": (b"PK\x03\x04\xff\xfe", ("no text",)),
}


@pytest.mark.parametrize("case", TEXTS)
@pytest.mark.parametrize("kind", ["own_vis", "own_stills"])
def test_files_that_are_no_annotations(case, kind, tmp_path):
    content, words = TEXTS[case]
    file = tmp_path / "x.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as error:
        load_videos(f"{kind}:{file}:{tmp_path}")
    explained(error, ("x.json", *words))


def test_missing_json_and_missing_images(good_json, root):
    with pytest.raises(InputError) as error:
        load_videos("ytvis_2019_val")
    explained(error, ("ytvis_2019/valid.json", "valid/instances.json", "instances_val_sub.json"))
    file = root / "a.json"
    file.write_text(good_json[1])
    with pytest.raises(InputError) as error:
        load_videos(f"own_vis:{file}:{root}/nowhere")
    explained(error, ("nowhere", "no such folder"))


def test_polygons_that_are_too_short_are_dropped(good_json, tmp_path):
    images, text = good_json
    truth = json.loads(text)
    truth["annotations"][0]["segmentations"][0] = [[1.0, 2.0, 3.0, 4.0], [1.0] * 7]
    file = tmp_path / "train.json"
    file.write_text(json.dumps(truth))
    video = load_videos(f"own_vis:{file}:{images}")[0]
    assert truth["annotations"][0]["id"] not in read_objects(video, 0).ids


# COCO --------------------------------------------------------------------------------------------

COCO_CASES = {
    "no images": (deleting("images"), ("'images' is missing",)),
    "duplicate image": (setting("images", 1, "id", value=7), ("image id 7", "twice")),
    "image without file": (deleting("images", 0, "file_name"), ("image 7", "'file_name'")),
    "unknown image": (setting(*FIRST, "image_id", value=5), ("annotation 1", "no image 5")),
    "unknown category": (setting(*FIRST, "category_id", value=5), ("no category 5",)),
    "odd segmentation": (setting(*FIRST, "segmentation", value=[1, 2]), ("neither an RLE",)),
    "crowd of another size": (
        setting("annotations", 1, "segmentation", "size", value=[1, 1]),
        ("annotation 2", "[1, 1]"),
    ),
    "first image missing": (
        setting("images", 1, "file_name", value="gone.jpg"),
        ("gone.jpg", "missing"),
    ),
}


@pytest.mark.parametrize("case", COCO_CASES)
def test_broken_coco_json(case, tmp_path):
    edit, words = COCO_CASES[case]
    data = trees.coco(tmp_path)
    edit(data)
    (tmp_path / "instances.json").write_text(json.dumps(data))
    with pytest.raises(InputError) as error:
        load_videos(f"own_stills:{tmp_path}/instances.json:{tmp_path}/images")
    explained(error, words)


# DAVIS and YouTube-VOS ---------------------------------------------------------------------------


def _rgb(file: Path) -> None:
    colours = np.zeros((96, 160, 3), np.uint8)
    colours[:40], colours[60:] = (200, 30, 10), (10, 90, 240)
    cv2.imwrite(str(file), colours)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:40])


DAVIS_CASES = {
    "no list": (lambda d: (d / "ImageSets/2017/val.txt").unlink(), ("val.txt", "no such list")),
    "empty list": (lambda d: (d / "ImageSets/2017/val.txt").write_text("\n"), ("is empty",)),
    "twice in the list": (
        lambda d: (d / "ImageSets/2017/val.txt").write_text("camel\ncamel\n"),
        ("camel", "twice"),
    ),
    "absent sequence": (
        lambda d: (d / "ImageSets/2017/val.txt").write_text("camel\nswan\n"),
        ("swan", "val.txt", "absent"),
    ),
    "empty sequence": (
        lambda d: [f.unlink() for f in (d / "JPEGImages/480p/camel").iterdir()],
        ("camel", "no image"),
    ),
    "frame without mask": (
        lambda d: (d / "Annotations/480p/camel/00002.png").unlink(),
        ("camel/00002.png", "1 of 5"),
    ),
    "no masks at all": (
        lambda d: (d / "Annotations").rename(d / "Masks"),
        ("00000.png", "5 of 5"),
    ),
    "mask without frame": (
        lambda d: (d / "JPEGImages/480p/camel/00004.jpg").unlink(),
        ("00004.png", "mask without frame"),
    ),
    "mask lost its palette": (
        lambda d: _rgb(d / "Annotations/480p/camel/00000.png"),
        ("00000.png", "colours instead of ids"),
    ),
    "mask cut off": (
        lambda d: _cut(d / "Annotations/480p/camel/00000.png"),
        ("00000.png", "damaged"),
    ),
    "masks of 2016": (
        lambda d: trees.write_png(
            d / "Annotations/480p/camel/00000.png", np.full((96, 160), 255), "L"
        ),
        ("00000.png", "DAVIS-2016"),
    ),
    "first image damaged": (
        lambda d: (d / "JPEGImages/480p/camel/00000.jpg").write_bytes(b"no image"),
        ("00000.jpg", "no readable image"),
    ),
}


@pytest.mark.parametrize("case", DAVIS_CASES)
def test_broken_davis(case, root):
    edit, words = DAVIS_CASES[case]
    edit(trees.davis(root))
    with pytest.raises(InputError) as error:
        load_videos("davis_2017_val")
    explained(error, words)


READ_CASES = {
    "image cut off": (
        "JPEGImages/480p/camel/00001.jpg",
        lambda f: f.write_bytes(f.read_bytes()[:-200]),
        ("00001.jpg", "truncated"),
    ),
    "image of another size": (
        "JPEGImages/480p/camel/00001.jpg",
        lambda f: cv2.imwrite(str(f), np.zeros((48, 80, 3), np.uint8)),
        ("00001.jpg", "48x80", "96x160"),
    ),
    "mask of another size": (
        "Annotations/480p/camel/00000.png",
        lambda f: trees.write_png(f, np.ones((48, 80))),
        ("00000.png", "48x80", "96x160"),
    ),
}


@pytest.mark.parametrize("case", READ_CASES)
def test_files_that_break_when_they_are_read(case, root):
    name, edit, words = READ_CASES[case]
    edit(trees.davis(root) / name)
    item = next(iter(build_test_loader(get_cfg(), "davis_2017_val")))[0]
    with pytest.raises(InputError) as error:
        for frame in item["frames"]:
            item["new_masks"].get(frame.index)
    explained(error, words)


VIDEO = ("videos", "003234408d", "objects")
META_CASES = {
    "no videos": (deleting("videos"), ("meta.json", "'videos'")),
    "no objects": (deleting(*VIDEO), ("003234408d", "'objects'")),
    "object without frames": (setting(*VIDEO, "1", "frames", value=[]), ("object 1", "empty")),
    "id no number": (setting(*VIDEO, "a", value={"frames": ["00000"]}), ("object a", "1 to 254")),
    "id out of range": (
        setting(*VIDEO, "300", value={"frames": ["00000"]}),
        ("object 300", "1 to 254"),
    ),
    "frame without image": (
        setting(*VIDEO, "1", "frames", value=["00000", "00007"]),
        ("object 1", "00007"),
    ),
    "start without mask": (
        setting(*VIDEO, "1", "frames", value=["00005"]),
        ("00005.png", "object 1 starts"),
    ),
}


@pytest.mark.parametrize("case", META_CASES)
def test_broken_youtube_vos(case, root):
    edit, words = META_CASES[case]
    meta = trees.youtube_vos(root / "youtube_vos_2019")
    edit(meta)
    (root / "youtube_vos_2019/valid/meta.json").write_text(json.dumps(meta))
    with pytest.raises(InputError) as error:
        load_videos("youtube_vos_2019_val")
    explained(error, words)


def test_folders_without_videos(root):
    (root / "JPEGImages").mkdir()
    with pytest.raises(InputError, match="no video"):
        load_videos(f"own_vos:{root}")
    with pytest.raises(InputError, match="no such folder"):
        load_videos(f"own_vos:{root}/JPEGImages")
