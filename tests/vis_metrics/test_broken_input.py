"""Bad ground truth and bad results: one clear line that names the file, the entry, the remedy."""

from __future__ import annotations

import copy
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from vis_metrics import (
    GroundTruthError,
    ResultFileError,
    evaluate_davis,
    evaluate_ytvis,
    validate_davis_results,
    validate_ytvis_results,
    validate_ytvos_results,
    write_label_map,
    write_sequence,
)

HEIGHT, WIDTH, LENGTH = 12, 16, 3


def rle(height: int = HEIGHT, width: int = WIDTH) -> dict:
    mask = np.zeros((height, width), np.uint8, order="F")
    mask[2:8, 3:9] = 1
    return {"size": [height, width], "counts": mask_util.encode(mask)["counts"].decode()}


def good_truth() -> dict:
    return {
        "videos": [
            {"id": i, "height": HEIGHT, "width": WIDTH, "length": LENGTH, "file_names": ["f"] * 3}
            for i in (1, 2)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {
                "id": 1,
                "video_id": 1,
                "category_id": 1,
                "iscrowd": 0,
                "segmentations": [rle(), None, rle()],
                "areas": [36, None, 36],
                "bboxes": [[3, 2, 6, 6], None, [3, 2, 6, 6]],
            }
        ],
    }


def good_results() -> list:
    return [
        {"video_id": 1, "category_id": 1, "score": 0.9, "segmentations": [rle(), None, rle()]},
        {"video_id": 2, "category_id": 2, "score": 0.4, "segmentations": [None, rle(), None]},
    ]


def test_good_files_pass():
    assert evaluate_ytvis(good_truth(), good_results())["AP"] == pytest.approx(1)
    assert validate_ytvis_results(good_results(), good_truth()) == 2


def truth_with(path: str, value) -> dict:
    """The good ground truth with one place changed; ``path`` as in ``videos.0.id``."""
    return _changed(good_truth(), path, value)


def results_with(path: str, value) -> list:
    return _changed(good_results(), path, value)


DELETE = object()


def _changed(content, path: str, value):
    content = copy.deepcopy(content)
    keys = [int(k) if k.isdigit() else k for k in path.split(".")]
    place = content
    for key in keys[:-1]:
        place = place[key]
    if value is DELETE:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    return content


TRUTHS = {
    "syntax": ('{"videos": [', r"gt\.json, line 1, column 13: not valid json"),
    "empty file": ("", r"gt\.json: is empty"),
    "a result file": (good_results(), "is this a result file"),
    "no videos": (truth_with("videos", DELETE), "key 'videos' is missing"),
    "empty videos": (truth_with("videos", []), "'videos' is empty"),
    "empty categories": (truth_with("categories", []), "'categories' is empty"),
    "annotations null": (truth_with("annotations", None), "has no annotations.*upload"),
    "annotations missing": (truth_with("annotations", DELETE), "has no annotations.*upload"),
    "annotations no list": (truth_with("annotations", {"a": 1}), "'annotations' is not a list"),
    "video without id": (truth_with("videos.0.id", DELETE), r"videos\[0\]: key 'id' is missing"),
    "duplicate video": (truth_with("videos.1.id", 1), "video 1: this id occurs twice"),
    "text size": (truth_with("videos.1.height", "12"), "video 2: 'height' is '12'"),
    "zero size": (truth_with("videos.1.width", 0), "video 2: height, width and length must be"),
    "file names": (truth_with("videos.1.length", 4), "video 2: 3 file_names but length 4"),
    "duplicate category": (truth_with("categories.1.id", 1), "category id 1 occurs twice"),
    "annotation id 0": (truth_with("annotations.0.id", 0), "annotation 0: ids must start at 1"),
    "unknown video": (truth_with("annotations.0.video_id", 9), "annotation 1: video_id 9 is not"),
    "unknown class": (truth_with("annotations.0.category_id", 9), "annotation 1: category_id 9"),
    "no masks": (truth_with("annotations.0.segmentations", DELETE), "'segmentations' is missing"),
    "short masks": (
        truth_with("annotations.0.segmentations", [rle()]),
        "annotation 1: 1 segmentations but its video 1 has 3 frames",
    ),
    "long areas": (truth_with("annotations.0.areas", [1] * 4), "annotation 1: 4 areas but"),
    "mask size": (
        truth_with("annotations.0.segmentations.2", rle(WIDTH, HEIGHT)),
        r"annotation 1, frame 2: mask of size \[16, 12\], its video has \[12, 16\]",
    ),
    "runs": (
        truth_with("annotations.0.segmentations.0", {"size": [HEIGHT, WIDTH], "counts": [5, 6]}),
        "annotation 1, frame 0: RLE runs cover 11 of 192 pixels",
    ),
    "mask type": (truth_with("annotations.0.segmentations.0", 5), "frame 0: a segmentation is"),
}


@pytest.mark.parametrize("case", TRUTHS)
def test_ground_truth(case, tmp_path):
    content, message = TRUTHS[case]
    file = tmp_path / "gt.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(GroundTruthError, match=message) as error:
        evaluate_ytvis(file, good_results())
    assert "gt.json" in str(error.value) and "\n" not in str(error.value)


def test_duplicate_annotation():
    truth = good_truth()
    truth["annotations"] *= 2
    with pytest.raises(GroundTruthError, match="annotation 1: this id occurs twice"):
        evaluate_ytvis(truth, good_results())


def test_missing_files(tmp_path):
    with pytest.raises(GroundTruthError, match=r"nowhere\.json: no such file"):
        evaluate_ytvis(tmp_path / "nowhere.json", good_results())
    with pytest.raises(ResultFileError, match=r"is a folder"):
        evaluate_ytvis(good_truth(), tmp_path)


RESULTS = {
    "syntax": ('[{"video_id": 1,', r"results\.json, line 1"),
    "not text": (b"\xff\xfe\x00\x01", r"results\.json"),
    "a ground truth": (good_truth(), "must be a list of tracks.*ground-truth file"),
    "no object": ([5], "entry 0: must be an object with keys"),
    "no video": (results_with("1.video_id", DELETE), "entry 1: key 'video_id' is missing"),
    "other data set": (results_with("1.video_id", 77), "entry 1: video_id 77 .*another data set"),
    "text video": (results_with("1.video_id", "2"), "entry 1: 'video_id' is '2'"),
    "no class": (results_with("0.category_id", DELETE), "entry 0: key 'category_id' is missing"),
    "no score": (results_with("0.score", DELETE), r"entry 0 \(video 1\): 'score' must be"),
    "score nan": (results_with("0.score", float("nan")), "'score' must be a finite number"),
    "no masks": (results_with("0.segmentations", DELETE), "'segmentations' is missing"),
    "too short": (
        results_with("1.segmentations", [rle()]),
        r"entry 1 \(video 2\): 1 segmentations but the video has 3 frames",
    ),
    "too long": (results_with("0.segmentations", [None] * 4), "4 segmentations but the video"),
    "network size": (
        results_with("0.segmentations.2", rle(6, 8)),
        r"frame 2: mask of size \[6, 8\] but the video has \[12, 16\].*not the network's",
    ),
    "uncompressed": (
        results_with("0.segmentations.0", {"size": [HEIGHT, WIDTH], "counts": [192]}),
        "frame 0: counts must be a compressed string",
    ),
    "polygons": (results_with("0.segmentations.0", [[1, 1, 5, 1, 5, 5]]), "null or a compressed"),
}


@pytest.mark.parametrize("check", [evaluate_ytvis, validate_ytvis_results])
@pytest.mark.parametrize("case", RESULTS)
def test_results(case, check, tmp_path):
    content, message = RESULTS[case]
    file = tmp_path / "results.json"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    arguments = (good_truth(), file) if check is evaluate_ytvis else (file, good_truth())
    with pytest.raises(ResultFileError, match=message) as error:
        check(*arguments)
    assert "results.json" in str(error.value) and "\n" not in str(error.value)


def test_unknown_class_is_ignored_in_scoring_and_named_in_validation(caplog):
    results = results_with("1.category_id", 999)
    assert evaluate_ytvis(good_truth(), results)["AP"] == pytest.approx(1)
    assert "category_id 999" in caplog.text
    with pytest.raises(ResultFileError, match="entry 1: category_id 999 is not in"):
        validate_ytvis_results(results, good_truth())


@pytest.mark.parametrize(
    ("counts", "message"),
    [("", "cannot be read"), ("é0", "cannot be read"), ("Q3", "for 33 pixels of 192|runs for")],
)
def test_runs_that_do_not_fill_the_frame(counts, message):
    results = results_with("0.segmentations.2", {"size": [HEIGHT, WIDTH], "counts": counts})
    with pytest.raises(ResultFileError, match=f"entry 0, frame 2: .*({message})"):
        validate_ytvis_results(results, good_truth())


@pytest.mark.parametrize("inside", [["a/results.json"], ["results.json", "more.json"], []])
def test_wrong_zip(tmp_path, inside):
    with zipfile.ZipFile(tmp_path / "results.zip", "w") as archive:
        for name in inside:
            archive.writestr(name, "[]")
    with pytest.raises(ResultFileError, match=r"results\.zip: must hold exactly one json"):
        evaluate_ytvis(good_truth(), tmp_path / "results.zip")


# Label maps --------------------------------------------------------------------------------------

NAMES = [f"{t:05d}" for t in range(4)]


@pytest.fixture
def davis(tmp_path) -> Path:
    """Ground truth with two objects, and equal results, for the sequences cat and dog."""
    maps = np.zeros((4, 20, 30), np.uint8)
    maps[:, 2:8, 2:12], maps[:, 10:18, 10:25] = 1, 2
    for video in ("cat", "dog"):
        write_sequence(tmp_path / "gt" / video, maps, NAMES)
        write_sequence(tmp_path / "own" / video, maps, NAMES)
    return tmp_path


def _rgb(root: Path) -> None:
    Image.new("RGB", (30, 20)).save(root / "own/dog/00002.png")


def _truncate(root: Path) -> None:
    file = root / "own/dog/00001.png"
    file.write_bytes(file.read_bytes()[:60])


def _text(root: Path) -> None:
    (root / "own/dog/00001.png").write_text("no image")


def _grey_2016(root: Path) -> None:
    maps = np.zeros((4, 20, 30), np.uint8)
    maps[:, 2:8] = 255
    write_sequence(root / "gt/dog", maps, NAMES)


LABEL_MAPS = {
    "missing frame": (lambda r: (r / "own/dog/00001.png").unlink(), r"dog/00001\.png: missing"),
    "missing sequence": (lambda r: (r / "own/dog").rename(r / "away"), "dog: .*no such folder"),
    "rgb": (_rgb, r"dog/00002\.png: a PNG of mode RGB, colours instead of ids"),
    "truncated": (_truncate, r"dog/00001\.png: not a readable PNG"),
    "no image": (_text, r"dog/00001\.png: not a readable PNG"),
    "wrong size": (
        lambda r: write_label_map(r / "own/dog/00001.png", np.zeros((10, 15))),
        r"dog/00001\.png: 15x10 pixels, .*30x20",
    ),
    "id too high": (
        lambda r: write_label_map(r / "own/dog/00001.png", np.full((20, 30), 3)),
        r"dog/00001\.png: object id 3, but there are only 2 objects",
    ),
    "0/255 result": (
        lambda r: write_label_map(r / "own/dog/00001.png", np.full((20, 30), 255)),
        r"dog/00001\.png: object id 255 \(a 0/255 mask",
    ),
    "0/255 ground truth": (_grey_2016, r"gt/dog/00000\.png: holds only 0 and 255.*protocol 2016"),
    "truth missing": (lambda r: (r / "gt/dog").rename(r / "gone"), "gt/dog: no such folder"),
}


@pytest.mark.parametrize(
    ("case", "workers"), [*((case, 0) for case in LABEL_MAPS), ("rgb", 2), ("id too high", 2)]
)
def test_label_maps(case, workers, davis):
    spoil, message = LABEL_MAPS[case]
    spoil(davis)
    with pytest.raises((ResultFileError, GroundTruthError), match=message) as error:
        evaluate_davis(
            davis / "gt",
            davis / "own",
            protocol="semi",
            sequences=["cat", "dog"],
            num_workers=workers,
        )
    assert "\n" not in str(error.value)


def test_label_maps_of_another_data_set(davis):
    (davis / "own/cat").rename(davis / "own/horse")
    with pytest.raises(ResultFileError, match="horse: no such sequence in"):
        evaluate_davis(davis / "gt", davis / "own", protocol="semi")
    (davis / "empty").mkdir()
    with pytest.raises(ResultFileError, match="holds no sequence folder"):
        evaluate_davis(davis / "gt", davis / "empty", protocol="semi")
    with pytest.raises(GroundTruthError, match="no such folder"):
        evaluate_davis(davis / "nothing", davis / "own", protocol="semi")


def test_incomplete_results_of_a_listed_set(davis):
    (davis / "root/Annotations").mkdir(parents=True)
    (davis / "gt").rename(davis / "root/Annotations/480p")
    (davis / "root/ImageSets/2017").mkdir(parents=True)
    (davis / "root/ImageSets/2017/val.txt").write_text("cat\ndog\n")
    (davis / "own/dog").rename(davis / "away")
    with pytest.raises(ResultFileError, match="lacks 1 of the 2 sequences of .*first dog"):
        evaluate_davis(davis / "root", davis / "own", protocol="semi")


def test_more_than_twenty_proposals(davis):
    write_label_map(davis / "own/dog/00000.png", np.full((20, 30), 21))
    message = r"dog/00000\.png: .*21.* only 20"
    with pytest.raises(ResultFileError, match=message):
        evaluate_davis(davis / "gt", davis / "own", protocol="unsup")
    with pytest.raises(ResultFileError, match=message):
        validate_davis_results(davis / "own", davis / "gt", protocol="unsup")


def test_extra_frames_and_wrapped_zip(davis):
    write_label_map(davis / "own/dog/00009.png", np.zeros((20, 30)))
    with pytest.raises(ResultFileError, match=r"dog/00009\.png: not a frame of this video"):
        validate_davis_results(davis / "own", davis / "gt", protocol="semi")
    with zipfile.ZipFile(davis / "own.zip", "w") as archive:
        archive.write(davis / "own/cat/00000.png", "own/cat/00000.png")
    with pytest.raises(ResultFileError, match="directly at its root"):
        validate_davis_results(davis / "own.zip", davis / "gt", protocol="semi")


META = {
    "videos": {
        "v": {
            "objects": {
                "1": {"frames": ["00000", "00005"]},
                "3": {"frames": ["00005"]},
            }
        }
    }
}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1, 2), r"v/00005\.png: id 2 is none of the video's ids 1, 3"),
        ((3, 3), r"v/00000\.png: object 3 begins in frame 00005"),
    ],
)
def test_ytvos_ids(tmp_path, values, message):
    maps = np.stack([np.full((4, 5), value) for value in values])
    write_sequence(tmp_path / "v", maps, ["00000", "00005"])
    with pytest.raises(ResultFileError, match=message):
        validate_ytvos_results(tmp_path, META)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({}, "key 'videos' is missing"),
        ({"videos": {"v": {}}}, "video v: key 'objects' is missing"),
        ({"videos": {"v": {"objects": {"x": {"frames": ["0"]}}}}}, "object x: ids are numbers"),
        ({"videos": {"v": {"objects": {"1": {"frames": []}}}}}, "object 1: key 'frames'"),
    ],
)
def test_ytvos_meta(tmp_path, meta, message):
    write_sequence(tmp_path / "v", [np.zeros((4, 5))], ["00000"])
    with pytest.raises(GroundTruthError, match=message):
        validate_ytvos_results(tmp_path, meta)
