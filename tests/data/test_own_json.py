"""Jsons of other tools: what they leave out is made up for, what is wrong is named."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as mask_util

from vis_projects.cli import main
from vis_projects.data import load_coco_stills, load_videos, load_ytvis_json, read_objects
from vis_projects.data.catalog import unregister_dataset
from vis_projects.data.catalog.benchmarks import register_benchmarks
from vis_projects.data.catalog.own_data import two_places
from vis_projects.data.catalog.ytvis_places import ytvis_places
from vis_projects.data.formats.json_files import read_json
from vis_projects.structures import InputError

ROOT = Path(__file__).resolve().parents[2]
SIZE = (24, 32)
SQUARE = [3, 4, 15, 4, 15, 14, 3, 14]


def mask(t: int = 0) -> np.ndarray:
    out = np.zeros(SIZE, np.uint8)
    out[4:14, 3 + t : 15 + t] = 1
    return out


def rle(array: np.ndarray) -> dict[str, Any]:
    runs = [0] if array.ravel(order="F")[0] else []
    flat = array.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs += np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(array.shape), "counts": runs}


def ytvis(root: Path, *, frames: int = 3) -> dict[str, Any]:
    for t in range(frames):
        file = root / "images/v" / f"{t}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE[::-1], (40 * t, 90, 20)).save(file)
    names = [f"v/{t}.jpg" for t in range(frames)]
    video = {"id": 1, "height": SIZE[0], "width": SIZE[1], "length": frames, "file_names": names}
    masks = [rle(mask(t)) for t in range(frames)]
    row = {"id": 1, "video_id": 1, "category_id": 3, "segmentations": masks, "iscrowd": 0,
           "bboxes": [[3.0 + t, 4.0, 12.0, 10.0] for t in range(frames)],
           "areas": [120] * frames}  # fmt: skip
    return {
        "videos": [video],
        "categories": [{"id": 3, "name": "thing"}],
        "annotations": [row],
    }


def write(root: Path, data: dict[str, Any], *, bom: bool = False) -> Path:
    file = root / "a.json"
    file.write_text(json.dumps(data), encoding="utf-8-sig" if bom else "utf-8")
    return file


def loaded(root: Path, data: dict[str, Any], **options: Any):
    return load_ytvis_json(write(root, data, **options), root / "images")[0][0]


def test_what_tools_leave_out_is_made_up_for(tmp_path: Path) -> None:
    whole = loaded(tmp_path, ytvis(tmp_path))
    data = ytvis(tmp_path)
    for key in ("iscrowd", "areas", "bboxes"):
        del data["annotations"][0][key]
    bare = loaded(tmp_path, data, bom=True)
    for t in range(3):
        for field in ("masks", "boxes", "classes", "ids"):
            first, second = (getattr(read_objects(v, t), field) for v in (whole, bare))
            assert np.array_equal(first, second)


def test_backslashes_in_file_names(tmp_path: Path) -> None:
    data = ytvis(tmp_path)
    data["videos"][0]["file_names"] = [f"v\\{t}.jpg" for t in range(3)]
    video = loaded(tmp_path, data)
    assert video["name"] == "v" and Path(video["file_names"][2]).is_file()


def test_empty_masks_are_absent_objects(tmp_path: Path) -> None:
    data = ytvis(tmp_path)
    data["annotations"][0]["segmentations"][1] = rle(np.zeros(SIZE, np.uint8))
    video = loaded(tmp_path, data)
    assert [len(read_objects(video, t)) for t in range(3)] == [1, 0, 1]


@pytest.mark.parametrize("change, words", [
    (lambda d: d["videos"][0].update(height=32, width=24), "width and height are exchanged"),
    (lambda d: d["videos"][0].update(height=48, width=64), "belong elsewhere|mask's size"),
    (lambda d: d["annotations"][0].update(iscrowd="yes"), "iscrowd is 'yes'; it is 0 or 1"),
    (lambda d: d["annotations"][0]["segmentations"].__setitem__(
        0, {"size": [24, 32], "counts": "\x01garbage"}), "neither runs nor COCO's"),
    (lambda d: d["annotations"][0]["segmentations"].__setitem__(
        0, {"size": [24, 32], "counts": [5, "x", 9]}), "runs cover"),
    (lambda d: d["annotations"][0]["segmentations"].__setitem__(
        0, [[1, 2, 3, "x", 5, 6]]), "no coordinate"),
    (lambda d: d["annotations"][0]["segmentations"].__setitem__(
        0, {"size": 7, "counts": []}), "mask's size is 7"),
])  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, change, words: str) -> None:
    data = ytvis(tmp_path)
    if "exchanged" in words:  # no mask is there to tell
        data["annotations"] = []
    change(data)
    with pytest.raises(InputError, match=words):
        loaded(tmp_path, data)


def test_uncompressed_masks_do_not_stay_in_memory(tmp_path: Path) -> None:
    """500 runs a mask: 4 KB as a list of small ints and more as large ones, below 2 KB as text."""
    runs = np.tile([3, 5], 250)
    size = [40, int(runs.sum()) // 40]
    row = {"size": size, "counts": runs.tolist()}
    (tmp_path / "a.json").write_text(json.dumps({"masks": [row] * 2000}))
    tracemalloc.start()
    data = read_json(tmp_path / "a.json")
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    text = (tmp_path / "a.json").stat().st_size
    assert held < 2000 * 2000
    assert peak < 2000 * 2000 + 4 * text  # the text itself, and its decoded copies
    assert mask_util.area(data["masks"][0]) == 5 * 250


def test_crowds_alone_are_not_good(tmp_path: Path, capsys) -> None:
    data = ytvis(tmp_path)
    data["annotations"][0]["iscrowd"] = 1
    name = f"own_vis:{write(tmp_path, data)}:{tmp_path / 'images'}"
    assert main(["data", "check", name]) == 2
    assert "no object" in capsys.readouterr().err
    config = ROOT / "configs/crossvis/quickstart_synthetic.yaml"
    options = ["MODEL.DEVICE", "cpu", "MODEL.FCOS.NUM_CLASSES", "1", "MODEL.WEIGHTS", ""]
    options += ["MODEL.ALLOW_MISSING_WEIGHTS", "True", "OUTPUT_DIR", str(tmp_path / "out")]
    argv = ["--config-file", str(config), *options, "SOLVER.MAX_ITER", "1"]
    unregister_dataset(name)
    assert main(["train", *argv, "DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", "()"]) == 2
    assert "Traceback" not in (line := capsys.readouterr().err) and name in line
    unregister_dataset(name)
    assert main(["eval", *argv, "DATASETS.TEST", f"('{name}',)"]) == 0  # nothing counts: no AP
    scores = json.loads((tmp_path / "out/scores.json").read_text())[name]["segm"]
    assert scores["AP"] is None


def coco(root: Path) -> dict[str, Any]:
    (root / "images").mkdir(exist_ok=True)
    Image.new("RGB", SIZE[::-1], (90, 20, 60)).save(root / "images/a.jpg")
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "segmentation": [[3, 4, 15, 4, 15, 14, 3, 14]],
            }
        ],
    }


def test_stills_without_boxes_flags_and_areas_are_scored(tmp_path: Path, capsys) -> None:
    file = write(tmp_path, coco(tmp_path))
    videos, metadata = load_coco_stills(file, tmp_path / "images")
    assert videos[0]["annotations"][0][0]["bbox"] == [3, 4, 12, 10]
    assert "json_file" not in metadata  # COCO's own tools could not read it
    name = f"own_stills:{file}:{tmp_path / 'images'}"
    config = ROOT / "configs/crossvis/CondInst_quickstart_synthetic.yaml"
    options = ["MODEL.WEIGHTS", "", "MODEL.ALLOW_MISSING_WEIGHTS", "True"]
    options += ["MODEL.FCOS.INFERENCE_TH_TEST", "0.0", "MODEL.FCOS.NUM_CLASSES", "1"]
    options += ["DATASETS.TEST", f"('{name}',)", "OUTPUT_DIR", str(tmp_path / "out")]
    assert main(["eval", "--config-file", str(config), *options]) == 0
    assert "AP" in (tmp_path / "out/scores.json").read_text()


def test_swapped_sizes_of_stills_are_named(tmp_path: Path) -> None:
    data = coco(tmp_path)
    data["images"][0].update(height=SIZE[1], width=SIZE[0])
    with pytest.raises(InputError, match=r"image 1: height 32 and width 24, but .*exchanged"):
        load_coco_stills(write(tmp_path, data), tmp_path / "images")


@pytest.mark.parametrize("text, wanted", [
    ("a.json:images", ("a.json", "images")),
    (r"C:\data\a.json:C:\data\img", (r"C:\data\a.json", r"C:\data\img")),
    (r"C:\data\a.json:img", (r"C:\data\a.json", "img")),
    ("/x:y/a.json:/x:y/img", ("/x:y/a.json", "/x:y/img")),
    ("a.JSON:b:c", ("a.JSON", "b:c")),
    ("a.txt:img", ("a.txt", "img")),
    ("a.txt:bb:cc", None),
    ("a.json", None),
    (":", None),
    ("a.json:", None),
])  # fmt: skip
def test_colons_in_paths(text: str, wanted: tuple[str, str] | None) -> None:
    found = two_places(text)
    assert (None if found is None else tuple(map(str, found))) == wanted


def test_colons_and_home_in_real_places(tmp_path: Path, monkeypatch) -> None:
    home = tmp_path / "a:b"
    home.mkdir()
    write(home, ytvis(home)).rename(home / "truth.txt")
    monkeypatch.setenv("HOME", str(home))
    for name in ("own_vis:~/truth.txt:~/images", f"own_vis:{home}/truth.txt:{home}/images"):
        unregister_dataset(name)
        assert load_videos(name)[0]["length"] == 3
    (home / "JPEGImages").symlink_to("images")
    assert load_videos("own_uvos:~")[0]["name"] == "v"


def test_names_of_benchmarks_are_there_without_their_files() -> None:
    for name, count, first in (
        ("ytvis_2019_train", 40, "person"), ("ytvis_2021_val", 40, "airplane"),
        ("ytvis_2022_val", 40, "airplane"), ("ovis_train", 25, "Person"),
        ("youtubevis_train", 40, "person"), ("ytvis_2019_local_val", 40, "person"),
        ("coco_2017_train", 80, "person"),
    ):  # fmt: skip
        if not name.startswith("coco"):  # other tests may have loaded one with its files
            unregister_dataset(name)
            register_benchmarks()
        assert name in DatasetCatalog.list()
        found = MetadataCatalog.get(name).thing_classes
        assert len(found) == count and found[0] == first
    metadata = MetadataCatalog.get("ytvis_2019_train")
    assert metadata.contiguous_id_to_dataset_id[0] == 1


@pytest.mark.parametrize("images", ["val", "valid"])
@pytest.mark.parametrize("name", ["youtubevis_valid", "ytvis_2019_val"])
def test_the_layout_of_crossvis_authors(tmp_path: Path, monkeypatch, images, name) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    data = ytvis(tmp_path)
    (tmp_path / "youtubevis/annotations").mkdir(parents=True)
    (tmp_path / "youtubevis/annotations/valid.json").write_text(json.dumps(data))
    (tmp_path / "images").rename(tmp_path / "youtubevis" / images)
    assert Path(load_videos(name)[0]["file_names"][0]).is_file()
    assert all(len(p) == 2 for p in ytvis_places(name))
