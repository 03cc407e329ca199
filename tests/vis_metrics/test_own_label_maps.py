"""Label maps that are not DAVIS': ids with gaps, late objects, few annotated frames, any file."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vis_metrics import (
    GroundTruthError,
    ResultFileError,
    evaluate_davis,
    evaluate_davis_maps,
    mask_measures,
    validate_davis_results,
    write_label_map,
    write_sequence,
)
from vis_metrics.cli import main
from vis_metrics.files.label_files import read_label_map
from vis_metrics.files.label_tree import LabelTree
from vis_metrics.files.names import natural_order, safe_name

SIZE = (24, 32)


def moving(length: int = 6, ids: tuple[int, ...] = (1, 2)) -> np.ndarray:
    """Ground truth: one box per id, each moving one pixel a frame."""
    maps = np.zeros((length, *SIZE), np.uint8)
    for t in range(length):
        for row, k in enumerate(ids):
            maps[t, 2 + 8 * row : 8 + 8 * row, 2 + t : 10 + t] = k
    return maps


def still(maps: np.ndarray) -> np.ndarray:
    """Results that repeat the first frame."""
    return np.repeat(maps[:1], len(maps), axis=0)


def score(gt: np.ndarray, own: np.ndarray, protocol: str = "semi") -> dict:
    return evaluate_davis_maps({"v": gt}, {"v": own}, protocol=protocol)


@pytest.mark.parametrize("protocol", ["semi", "unsup"])
def test_gaps_in_ids_are_no_objects(protocol):
    dense, gaps = moving(ids=(1, 2)), moving(ids=(5, 9))
    expected, found = score(dense, still(dense), protocol), score(gaps, still(gaps), protocol)
    assert expected["J&F-Mean"] < 0.9
    assert list(found["per_object"]) == ["v_5", "v_9"]
    for key in ("J&F-Mean", "J-Recall", "F-Decay"):
        assert found[key] == expected[key]


def test_late_objects_are_scored_from_the_frame_after_their_first():
    gt = moving()
    gt[:3][gt[:3] == 2] = 0  # object 2 begins in frame 3
    own = moving()
    own[4][own[4] == 2] = 0
    own[4, 12:18, 7:15] = 2
    found = score(gt, own)
    single = mask_measures(gt[4] == 2, own[4] == 2)
    assert (found["per_object"]["v_2"]["J-Mean"], found["per_object"]["v_2"]["F-Mean"]) == single
    assert found["per_object"]["v_1"]["J-Mean"] == 1


def test_an_empty_first_mask_is_a_video_whose_objects_come_later():
    gt = moving()
    gt[0] = 0
    assert score(gt, moving())["J&F-Mean"] == 1
    assert score(gt, moving(), "unsup")["per_object"].keys() == {"v_1", "v_2"}
    nothing = score(np.zeros_like(gt), np.zeros_like(gt))
    assert nothing["per_object"] == {} and np.isnan(nothing["J&F-Mean"])


@pytest.mark.parametrize("protocol", ["semi", "unsup"])
@pytest.mark.parametrize("value", [1, 255])
def test_0_255_masks_are_one_object(protocol, value, caplog):
    gt = moving(ids=(1,))
    plain = score(gt, still(gt), protocol)
    own = np.where(still(gt) > 0, np.uint8(value), np.uint8(0))
    assert score(gt * 255, own, protocol)["J&F-Mean"] == plain["J&F-Mean"]
    assert "one object" in caplog.text


def test_late_ids_of_unsupervised_ground_truth_are_named(caplog):
    gt = moving()
    gt[0][gt[0] == 2] = 0
    assert list(score(gt, moving(), "unsup")["per_object"]) == ["v_1"]
    assert "ids 2 appear after the first frame" in caplog.text


def test_sparse_annotation_is_scored_where_it_is(tmp_path):
    gt, names = moving(9), [f"{t:05d}" for t in range(9)]
    own = still(gt)
    write_sequence(tmp_path / "own/v", own, names)
    write_sequence(tmp_path / "gt/v", gt[::3], names[::3])  # 0, 3, 6
    found = evaluate_davis(tmp_path / "gt", tmp_path / "own", protocol="semi")
    expected = np.mean([mask_measures(gt[t] == 1, own[t] == 1)[0] for t in (3, 6)])
    assert found["per_object"]["v_1"]["J-Mean"] == expected
    assert validate_davis_results(tmp_path / "own", tmp_path / "gt", protocol="semi") == 3
    # only the beginning is annotated: the frames of the video tell
    shutil.rmtree(tmp_path / "gt")
    write_sequence(tmp_path / "gt/v", gt[:2], names[:2])
    with_frames = evaluate_davis(
        tmp_path / "gt", tmp_path / "own", protocol="semi", frames={"v": names}
    )
    expected = mask_measures(gt[1] == 1, own[1] == 1)[0]
    assert with_frames["per_object"]["v_1"]["J-Mean"] == expected


def test_left_over_results_change_nothing(tmp_path):
    gt, names = moving(), [f"{t:05d}" for t in range(6)]
    write_sequence(tmp_path / "gt/v", gt, names)
    write_sequence(tmp_path / "own/v", still(gt), names)
    before = evaluate_davis(tmp_path / "gt", tmp_path / "own", protocol="semi")
    write_label_map(tmp_path / "own/v/00099.png", gt[0])
    assert evaluate_davis(tmp_path / "gt", tmp_path / "own", protocol="semi") == before


def save(file: Path, labels: np.ndarray, mode: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if mode == "P":
        image = Image.fromarray(labels)
        image.putpalette(list(range(256)) * 3)
        image.save(file, format="TIFF" if "tif" in file.suffix.lower() else "PNG")
    else:
        kind = "TIFF" if "tif" in file.suffix.lower() else "PNG"
        Image.fromarray(labels.astype(np.uint16) if mode == "16" else labels).save(file, kind)


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".Png", ".tif", ".TIFF"])
@pytest.mark.parametrize("mode", ["L", "P", "16"])
def test_any_file_of_ids(tmp_path, suffix, mode):
    gt = moving()
    for t in range(6):
        save(tmp_path / f"gt/v/{t}{suffix}", gt[t], mode)
        save(tmp_path / f"own/v/{t}.png", still(gt)[t], "P")
    (tmp_path / "own/v/._3.png").write_bytes(b"mac")
    found = evaluate_davis(tmp_path / "gt", tmp_path / "own", protocol="semi")
    assert found["J&F-Mean"] == score(gt, still(gt))["J&F-Mean"]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_packed_pngs(tmp_path, bits):
    labels = (np.arange(24 * 33).reshape(24, 33) % (1 << bits)).astype(np.uint8)
    image = Image.fromarray(labels)
    image.putpalette(list(range(256)) * 3)
    image.save(tmp_path / "a.png", bits=bits)
    assert np.array_equal(read_label_map(tmp_path / "a.png"), labels)
    if bits == 1:
        Image.fromarray(labels.astype(bool)).save(tmp_path / "b.png")
        assert np.array_equal(read_label_map(tmp_path / "b.png"), labels)


def test_frames_are_in_natural_order(tmp_path):
    for t in (1, 2, 9, 10, 11):
        write_label_map(tmp_path / f"v/{t}.png", np.full(SIZE, t))
    assert list(LabelTree(tmp_path, error=GroundTruthError).frames("v")) == [
        "1",
        "2",
        "9",
        "10",
        "11",
    ]
    assert natural_order(["f10", "f9", "e1", "f09"]) == ["e1", "f09", "f9", "f10"]


def test_two_files_of_one_frame_and_ids_too_high_are_named(tmp_path):
    save(tmp_path / "v/00000.png", moving()[0], "L")
    save(tmp_path / "v/00000.TIF", moving()[0], "L")
    with pytest.raises(GroundTruthError, match=r"both .*00000\.(TIF|png).* frame 00000"):
        LabelTree(tmp_path, error=GroundTruthError).frames("v")
    Image.fromarray(np.full(SIZE, 300, np.uint16)).save(tmp_path / "high.png")
    with pytest.raises(ResultFileError, match=r"high\.png: uint16 values from 0 to 300"):
        read_label_map(tmp_path / "high.png")


def test_a_flipped_byte_is_an_error_and_never_a_mask(tmp_path):
    write_label_map(tmp_path / "a.png", moving()[3])
    good = (tmp_path / "a.png").read_bytes()
    for place in range(0, len(good), 3):
        broken = bytearray(good)
        broken[place] ^= 0x10
        (tmp_path / "b.png").write_bytes(broken)
        try:
            labels = read_label_map(tmp_path / "b.png")
        except ResultFileError as error:
            assert "b.png" in str(error)
        else:  # a byte that ids do not depend on
            assert np.array_equal(labels, moving()[3])


# Where the results lie ----------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path) -> Path:
    gt, names = moving(), [f"{t:05d}" for t in range(6)]
    for video in ("a", "b"):
        write_sequence(tmp_path / "gt" / video, gt, names)
        write_sequence(tmp_path / "run/inference/set/results" / video, still(gt), names)
    (tmp_path / "run/inference/set/videos").mkdir()
    return tmp_path


def command(root: Path, results: Path, *more: str) -> int:
    options = ["--ground-truth", str(root / "gt"), "--results", str(results)]
    return main(["davis", "--protocol", "2017", *options, *more])


@pytest.mark.parametrize("place", ["", "inference", "inference/set", "inference/set/results"])
def test_folders_above_the_results_are_entered(folders, place, capsys):
    assert command(folders, folders / "run" / place) == 0
    assert "b_2" in capsys.readouterr().out


def test_the_folder_of_one_sequence_is_that_sequence(folders, capsys):
    assert command(folders, folders / "run/inference/set/results/b") == 0
    out = capsys.readouterr().out
    assert "b_2" in out and "a_1" not in out


def test_two_choices_are_named(folders, capsys):
    shutil.copytree(folders / "run/inference/set", folders / "run/inference/other")
    assert command(folders, folders / "run") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "2 folders below" in error and "other/results" in error


def test_zips_and_folders_of_vis_run(folders, capsys):
    results = folders / "run/inference/set/results"
    for around in ("", "results/"):
        with zipfile.ZipFile(folders / "own.zip", "w") as archive:
            for file in results.rglob("*.png"):
                archive.write(file, around + file.relative_to(results).as_posix())
        assert command(folders, folders / "own.zip", "--num-workers", "2") == 0
    one = capsys.readouterr().out
    for video in ("a", "b"):
        (folders / "bulk" / video).mkdir(parents=True)
        (results / video).rename(folders / "bulk" / video / "masks")
    assert command(folders, folders / "bulk") == 0
    assert capsys.readouterr().out in one


def test_safe_names():
    for plain in ("davis_2016_val", "a-b.c", "00012"):
        assert safe_name(plain) == plain
    hard = [
        "own_vis:../../x.json:../img",
        "..",
        ".hidden",
        "con",
        "a/b",
        "a_b/",
        "C:\\x",
        "é" * 300,
    ]
    names = [safe_name(text) for text in hard]
    assert len(set(names)) == len(hard)
    for name in names:
        assert not set('/\\:*?"<>|') & set(name) and not name.startswith(".") and len(name) <= 80
