"""Result files: palette, PNGs, json, zips; written whole or not at all, and valid."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from vis_metrics import (
    ResultFileError,
    read_palette,
    validate_davis_results,
    validate_ytvis_results,
    validate_ytvos_results,
    voc_palette,
    write_json_atomically,
    write_label_map,
    write_sequence,
    write_ytvis_results,
    zip_folder,
)
from vis_metrics.files.label_files import read_label_map
from vis_metrics.validate import covered_pixels


def test_palette():
    colours = np.reshape(voc_palette(), (256, 3)).tolist()
    assert colours[:9] == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [128, 128, 0],
        [0, 0, 128],
        [128, 0, 128],
        [0, 128, 128],
        [128, 128, 128],
        [64, 0, 0],
    ]
    assert colours[9] == [192, 0, 0] and colours[255] == [224, 224, 192]


def test_label_map_round_trip(tmp_path):
    labels = np.arange(256, dtype=np.int64).reshape(8, 32)
    write_label_map(tmp_path / "a" / "00000.png", labels)
    assert (read_label_map(tmp_path / "a" / "00000.png") == labels).all()
    with Image.open(tmp_path / "a" / "00000.png") as image:
        assert image.mode == "P"
    assert read_palette(tmp_path / "a" / "00000.png") == voc_palette()
    own = list(range(256)) * 3
    write_label_map(tmp_path / "b.png", labels, palette=own)
    assert read_palette(tmp_path / "b.png") == own


@pytest.mark.parametrize("labels", [np.full((2, 2), 256), np.full((2, 2), -1), np.zeros((2, 2, 3))])
def test_label_map_that_does_not_fit(tmp_path, labels):
    with pytest.raises(ResultFileError, match=r"x\.png"):
        write_label_map(tmp_path / "x.png", labels)
    assert list(tmp_path.iterdir()) == []


def test_sequence_appears_complete_or_not_at_all(tmp_path):
    def broken():
        yield np.ones((4, 4))
        raise RuntimeError("killed")

    write_sequence(tmp_path / "cat", [np.zeros((4, 4))] * 2, ["00000", "00001.png"])
    with pytest.raises(RuntimeError):
        write_sequence(tmp_path / "cat", broken(), ["00000", "00001"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cat"]
    assert read_label_map(tmp_path / "cat" / "00000.png").max() == 0
    write_sequence(tmp_path / "cat", [np.ones((4, 4))], ["00007"])
    assert [p.name for p in (tmp_path / "cat").iterdir()] == ["00007.png"]
    with pytest.raises(ResultFileError, match="1 label maps for 2"):
        write_sequence(tmp_path / "dog", [np.ones((4, 4))], ["0", "1"])
    assert not (tmp_path / "dog").exists()


def entry(**changes):
    rle = mask_util.encode(np.asfortranarray(np.eye(6, 8, dtype=np.uint8)))
    base = {"video_id": 1, "category_id": 2, "score": 0.5, "segmentations": [rle, None]}
    return {**base, **changes}


TRUTH = {
    "videos": [{"id": 1, "height": 6, "width": 8, "length": 2}],
    "categories": [{"id": 2, "name": "cat"}],
    "annotations": None,
}


def test_ytvis_results_are_valid_and_zipped(tmp_path):
    archive = write_ytvis_results(
        [entry(), entry(score=np.float32(0.25))], tmp_path / "results.json"
    )
    assert archive == tmp_path / "results.zip"
    with zipfile.ZipFile(archive) as content:
        assert content.namelist() == ["results.json"]
    written = json.loads((tmp_path / "results.json").read_text())
    assert written[1]["score"] == 0.25 and isinstance(written[0]["segmentations"][0]["counts"], str)
    for place in (archive, tmp_path / "results.json", written):
        assert validate_ytvis_results(place, TRUTH) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results.json", "results.zip"]


def test_empty_ytvis_results(tmp_path):
    archive = write_ytvis_results([], tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text()) == []
    assert validate_ytvis_results(archive, TRUTH) == 0


def test_a_failing_writer_keeps_the_old_file(tmp_path):
    write_ytvis_results([entry()], tmp_path / "results.json", zipped=False)
    before = (tmp_path / "results.json").read_bytes()
    with pytest.raises(ResultFileError, match="not finite"):
        write_ytvis_results([entry(), entry(score=float("nan"))], tmp_path / "results.json")
    assert (tmp_path / "results.json").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_zips_are_reproducible(tmp_path):
    write_ytvis_results([entry()], tmp_path / "results.json")
    first = (tmp_path / "results.zip").read_bytes()
    write_ytvis_results([entry()], tmp_path / "results.json")
    assert (tmp_path / "results.zip").read_bytes() == first


def test_nan_becomes_null(tmp_path):
    write_json_atomically(tmp_path / "x.json", {"a": float("nan"), "b": [1.5, float("nan")]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [1.5, None]}


def test_davis_zip_holds_the_sequences_at_its_root(tmp_path):
    maps = np.zeros((3, 10, 12), np.uint8)
    maps[:, 2:5, 2:5] = 1
    names = ["00000", "00001", "00002"]
    for video in ("cat", "dog"):
        write_sequence(tmp_path / "truth" / video, maps, names)
        write_sequence(tmp_path / "own" / video, maps, names)
    archive = zip_folder(tmp_path / "own")
    with zipfile.ZipFile(archive) as content:
        assert content.namelist()[0] == "cat/00000.png" and len(content.namelist()) == 6
    for place in (tmp_path / "own", archive):
        for protocol in ("2016", "semi", "unsup"):
            checked = validate_davis_results(place, tmp_path / "truth", protocol=protocol)
            assert checked == 6


def test_davis_test_set_with_one_annotation(tmp_path):
    maps = np.ones((3, 10, 12), np.uint8)
    write_sequence(tmp_path / "truth" / "cat", maps[:1], ["00000"])
    write_sequence(tmp_path / "own" / "cat", maps, ["00000", "00001", "00002"])
    frames = {"cat": ["00000.jpg", "00001.jpg", "00002.jpg"]}
    place = tmp_path / "own"
    assert validate_davis_results(place, tmp_path / "truth", protocol="semi", frames=frames) == 3


def test_ytvos_zip_with_or_without_its_folder(tmp_path):
    maps = np.zeros((2, 10, 12), np.uint8)
    write_sequence(tmp_path / "Annotations" / "v", maps, ["00000", "00005"])
    meta = {"videos": {"v": {"objects": {"7": {"frames": ["00000", "00005"]}}}}}
    inside = zip_folder(tmp_path / "Annotations", tmp_path / "a.zip", with_folder=True)
    bare = zip_folder(tmp_path / "Annotations", tmp_path / "b.zip")
    for place in (inside, bare, tmp_path, tmp_path / "Annotations"):
        assert validate_ytvos_results(place, meta) == 2


def test_covered_pixels_equals_decoding():
    rng = np.random.default_rng(0)
    counts, wanted = [], []
    for _ in range(40):
        height, width = rng.integers(1, 60, 2)
        mask = rng.random((height, width)) < rng.choice([0, 0.02, 0.5, 1])
        counts.append(mask_util.encode(np.asfortranarray(mask, np.uint8))["counts"].decode())
        wanted.append(height * width)
    assert covered_pixels(counts).tolist() == wanted
    broken = [counts[0], "", counts[1][:-1] + "~", counts[2], counts[3] + "o", "é"]
    pixels = covered_pixels(broken)
    assert pixels[[0, 3]].tolist() == [wanted[0], wanted[2]]
    assert (pixels[[1, 2, 4, 5]] == -1).all()
