"""J and F and the three DAVIS protocols: official figures, slow versions, files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import slow_metrics
from PIL import Image

from vis_metrics import (
    GroundTruthError,
    ResultFileError,
    evaluate_davis,
    evaluate_davis_maps,
    frame_measures,
    mask_measures,
    sequence_measures,
    series_statistics,
    write_sequence,
)
from vis_metrics.davis import score_sequence
from vis_metrics.files.label_files import LabelArray, read_label_map
from vis_metrics.region_boundary import boundary_radius

TOLERANCE = 1e-12
GROUPS = {
    "semi_synthetic": "semi",
    "semi_real_small": "semi",
    "semi_real_480p": "semi",
    "unsupervised_synthetic": "unsup",
    "unsupervised_real_small": "unsup",
}


@pytest.fixture
def expected(golden):
    return json.loads(golden("metrics/davis_expected.json").read_text())


@pytest.fixture
def maps(golden):
    return np.load(golden("metrics/davis_label_maps.npz"))


def test_pairs(expected, maps):
    for name, figures in expected["pairs"].items():
        base = name.removesuffix("_void")
        void = maps[f"{base}/void"] if name.endswith("_void") else None
        region, boundary = mask_measures(maps[f"{base}/gt"], maps[f"{base}/pred"], void=void)
        assert abs(region - figures["J"]) < TOLERANCE, name
        assert abs(boundary - figures["F"]) < TOLERANCE, name
        assert boundary_radius(*maps[f"{base}/gt"].shape) == figures["radius"]


@pytest.mark.parametrize("group", GROUPS)
def test_groups(group, expected, maps):
    figures = expected[group]
    gt = {name: maps[f"{name}/gt"] for name in figures["sequences"]}
    own = {name: maps[f"{name}/pred"] for name in figures["sequences"]}
    report = evaluate_davis_maps(gt, own, protocol=GROUPS[group], official_order=True)
    for key, value in figures["global"].items():
        assert abs(report[key] - value) < TOLERANCE, key
    for measure in "JF":
        for name, value in figures[f"per_object_{measure}"].items():
            assert abs(report["per_object"][name][f"{measure}-Mean"] - value) < TOLERANCE, name
    assert set(report["per_object"]) == set(figures["per_object_J"])
    by_id = evaluate_davis_maps(gt, own, protocol=GROUPS[group])
    assert by_id["J-Mean"] == pytest.approx(report["J-Mean"], abs=TOLERANCE)


@pytest.mark.parametrize("group", GROUPS)
def test_sequences_frame_by_frame(group, expected, maps):
    for name, figures in expected[group]["sequences"].items():
        scores = _score(name, maps, GROUPS[group])
        objects = scores.objects
        assert len(objects) == figures["num_objects"]
        if scores.assignment is not None:
            pairs = [[p - 1, g - 1] for p, g in scores.assignment]
            assert pairs == figures["assignment"], name
            objects = [objects[g] for _, g in pairs]
        for row, series in enumerate(objects):
            for measure, values in (("J", series.region), ("F", series.boundary)):
                wanted = figures[f"{measure}_per_frame"][row]
                assert np.abs(values - wanted).max() < TOLERANCE, name
                statistics = np.array(series_statistics(values))
                wanted = figures[f"{measure}_mean_recall_decay"][row]
                assert np.abs(statistics - wanted).max() < TOLERANCE, name


def _score(name, maps, protocol):
    gt = LabelArray(maps[f"{name}/gt"], name, GroundTruthError)
    return score_sequence(
        name, gt, LabelArray(maps[f"{name}/pred"], name, ResultFileError), protocol
    )


def test_2016(expected, maps):
    figures = expected["davis2016_real"]
    gt = {name: maps[f"{name}/gt"] for name in figures["sequences"]}
    own = {name: maps[f"{name}/pred"] for name in figures["sequences"]}
    report = evaluate_davis_maps(gt, own, protocol="2016")
    for key, value in figures["global"].items():
        assert abs(report[key] - value) < TOLERANCE, key
    assert report["encoding"] == "merged ids"
    as_255 = {name: (m > 0).astype(np.uint8) * 255 for name, m in gt.items()}
    again = evaluate_davis_maps(as_255, own, protocol="2016")
    assert again["encoding"] == "0/255"
    assert again["per_object"] == report["per_object"]


def test_2016_tells_void_from_foreground():
    gt = np.zeros((4, 20, 30), np.uint8)
    gt[:, 5:10, 5:20] = 255  # void once an id is met, even in a later frame
    gt[2:, 12:18, 5:20] = 3
    own = (gt == 3).astype(np.uint8) * 255
    report = evaluate_davis_maps({"a": gt}, {"a": own}, protocol="2016")
    assert report["encoding"] == "merged ids"
    assert report["J-Mean"] == 1.0
    own[1, 5:10, 5:20] = 1  # inside void: not held against it
    assert evaluate_davis_maps({"a": gt}, {"a": own}, protocol="2016")["J-Mean"] == 1.0


@pytest.mark.parametrize("seed", range(4))
def test_all_pairs_equal_slow_version(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(3, 90, 2)
    gt, own = _blobs(rng, height, width, 4), _blobs(rng, height, width, 6)
    void = _blobs(rng, height, width, 1) > 0
    for mask in (np.zeros_like(void), void):
        region, boundary = frame_measures(gt, own, num_gt=5, num_results=7, void=mask)
        for g in range(5):
            for p in range(7):
                wanted = slow_metrics.pair_measures(gt == g + 1, own == p + 1, mask)
                assert (region[g, p], boundary[g, p]) == pytest.approx(wanted, abs=TOLERANCE)


def _blobs(rng, height, width, count):
    labels = np.zeros((height, width), np.uint8)
    for k in range(count):
        y, x = rng.integers(0, height), rng.integers(0, width)
        h, w = rng.integers(1, height + 1), rng.integers(1, width + 1)
        labels[max(0, y - h // 2) : y + h // 2 + 1, max(0, x - w // 2) : x + w // 2 + 1] = k + 1
    labels[rng.random((height, width)) < 0.02] = rng.integers(0, count + 1)
    return labels


def test_many_objects_leave_the_small_histogram():
    rng = np.random.default_rng(5)
    gt = rng.integers(0, 41, (30, 40)).astype(np.uint8)
    own = rng.integers(0, 31, (30, 40)).astype(np.uint8)
    region, boundary = frame_measures(gt, own, num_gt=40, num_results=30)
    none = np.zeros(gt.shape, bool)
    for g, p in rng.integers(0, 30, (20, 2)):
        wanted = slow_metrics.pair_measures(gt == g + 1, own == p + 1, none)
        assert (region[g, p], boundary[g, p]) == pytest.approx(wanted, abs=TOLERANCE)


def test_unsupervised_equals_slow_version():
    rng = np.random.default_rng(7)
    gt = np.stack([_blobs(rng, 40, 60, 3) for _ in range(5)])
    gt[:, :5, :5] = 255
    gt[0, 20, :3] = (1, 2, 3)
    own = np.stack([_blobs(rng, 40, 60, 5) for _ in range(5)])
    region, boundary = slow_metrics.unsupervised(gt, own)
    report = evaluate_davis_maps({"a": gt}, {"a": own}, protocol="unsup")
    assert report["J-Mean"] == pytest.approx(region.mean(), abs=TOLERANCE)
    assert report["F-Mean"] == pytest.approx(boundary.mean(), abs=TOLERANCE)
    for k in range(3):
        row = report["per_object"][f"a_{k + 1}"]
        assert row["J-Mean"] == pytest.approx(region[:, k].mean(), abs=TOLERANCE)


def test_boundary_border_cases():
    one = np.ones((12, 16), np.uint8)
    zero = np.zeros_like(one)
    corner = zero.copy()
    corner[-1, -1] = 1
    assert mask_measures(one, one) == (1.0, 1.0)
    assert mask_measures(one, zero) == (0.0, 1.0)  # a full mask has no boundary either
    assert mask_measures(zero, zero) == (1.0, 1.0)
    assert mask_measures(corner, zero)[1] == 0.0  # its neighbours' pixels are the boundary


def test_statistics():
    assert series_statistics([0.5, 0.6])[1] == 0.5  # strictly above
    assert all(math.isnan(v) for v in series_statistics([]))
    values = np.linspace(1, 0, 400)  # the official cast to uint8 breaks from 256 on
    wanted = values[:101].mean() - values[299:].mean()
    assert series_statistics(values).decay == pytest.approx(wanted, abs=1e-2)
    with_gaps = np.array([np.nan, 0.2, np.nan, 0.9])
    assert series_statistics(with_gaps) == series_statistics([0.2, 0.9])


def test_sequence_measures_check_length():
    maps = np.zeros((3, 4, 5), np.uint8)
    assert sequence_measures(maps, maps)[0].shape == (3, 0, 0)
    with pytest.raises(ValueError, match="3 ground-truth frames but 2"):
        sequence_measures(maps, maps[:2])


def test_too_short_for_a_figure():
    gt = np.ones((2, 8, 8), np.uint8)
    report = evaluate_davis_maps({"a": gt}, {"a": gt}, protocol="semi")
    assert math.isnan(report["J-Mean"]) and math.isnan(report["per_object"]["a_1"]["J-Mean"])
    empty = np.zeros((4, 8, 8), np.uint8)
    for protocol in ("semi", "unsup"):
        report = evaluate_davis_maps({"a": empty}, {"a": empty}, protocol=protocol)
        assert report["per_object"] == {}


# Files -------------------------------------------------------------------------------------------


def write_tree(root: Path, sequences, *, list_year: str | None = None) -> Path:
    for name, labels in sequences.items():
        frames = [f"{t:05d}" for t in range(len(labels))]
        write_sequence(root / name, labels, frames)
    return root


@pytest.fixture
def tree(tmp_path, maps):
    names = ["s_basic", "s_many"]
    root = tmp_path / "DAVIS"
    write_tree(root / "Annotations" / "480p", {n: maps[f"{n}/gt"] for n in names})
    write_tree(tmp_path / "results", {n: maps[f"{n}/pred"] for n in names})
    return tmp_path


def test_files_equal_arrays(tree, maps):
    names = ["s_basic", "s_many"]
    wanted = evaluate_davis_maps(
        {n: maps[f"{n}/gt"] for n in names},
        {n: maps[f"{n}/pred"] for n in names},
        protocol="semi",
    )
    for place in ("DAVIS", "DAVIS/Annotations", "DAVIS/Annotations/480p"):
        assert evaluate_davis(tree / place, tree / "results", protocol="semi") == wanted
    parallel = evaluate_davis(tree / "DAVIS", tree / "results", protocol="semi", num_workers=2)
    assert parallel == wanted


def test_first_and_last_frame_are_not_needed(tree):
    before = evaluate_davis(tree / "DAVIS", tree / "results", protocol="semi")
    for name in ("00000.png", "00009.png"):
        (tree / "results" / "s_basic" / name).unlink()
    assert evaluate_davis(tree / "DAVIS", tree / "results", protocol="semi") == before


def test_sequence_lists(tree):
    lists = tree / "DAVIS" / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("s_many\n")
    for place in ("DAVIS", "DAVIS/Annotations/480p"):
        report = evaluate_davis(tree / place, tree / "results", protocol="semi")
        assert list(report["per_object"]) == [f"s_many_{k}" for k in range(1, 6)]
    (lists / "val.txt").write_text("s_many\nelsewhere\n")  # an incomplete tree: what is there
    report = evaluate_davis(tree / "DAVIS", tree / "results", protocol="semi")
    assert len(report["per_object"]) == 7
    report = evaluate_davis(
        tree / "DAVIS", tree / "results", protocol="semi", sequences=["s_basic"]
    )
    assert len(report["per_object"]) == 2


def test_unsupervised_annotations_are_preferred(tree, maps):
    write_tree(tree / "DAVIS" / "Annotations_unsupervised" / "480p", {"u_void": maps["u_void/gt"]})
    write_tree(tree / "own", {"u_void": maps["u_void/pred"]})
    report = evaluate_davis(tree / "DAVIS", tree / "own", protocol="unsup")
    arrays = evaluate_davis_maps(
        {"u_void": maps["u_void/gt"]}, {"u_void": maps["u_void/pred"]}, protocol="unsup"
    )
    assert report == arrays


def test_grey_one_bit_and_palette_read_alike(tmp_path):
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(labels).save(tmp_path / "grey.png")
    assert (read_label_map(tmp_path / "grey.png") == labels).all()
    Image.fromarray(labels > 5).save(tmp_path / "bits.png")
    assert (read_label_map(tmp_path / "bits.png") > 0).tolist() == (labels > 5).tolist()


@pytest.mark.slow
def test_repeating_the_first_mask_on_real_video(davis_root, tmp_path):
    annotations = davis_root / "Annotations" / "480p"
    for folder in sorted(annotations.iterdir()):
        names = sorted(file.name for file in folder.glob("*.png"))
        first = read_label_map(folder / names[0]) > 0
        write_sequence(tmp_path / folder.name, (first for _ in names), names)
    report = evaluate_davis(davis_root, tmp_path, protocol="2016", num_workers=2)
    figures = [round(100 * report[key], 2) for key in ("J-Mean", "F-Mean", "J&F-Mean")]
    assert figures == [29.07, 26.48, 27.77]
    assert report["encoding"] == "0/255"


def _rectangles(rng: np.random.Generator, size: tuple[int, int], count: int) -> np.ndarray:
    """A label map of overlapping rectangles, some with holes, some at the border."""
    labels = np.zeros(size, np.uint8)
    for k in range(1, count + 1):
        y, x, half, wide = (int(rng.integers(0, n)) for n in (*size, *size))
        if rng.random() < 0.8:
            labels[max(y - half // 2, 0) : y + half // 2 + 1, max(x - wide // 2, 0) : x + wide] = k
    return labels * (rng.random(size) < 0.8) if rng.random() < 0.3 else labels


@pytest.mark.parametrize("highest", [3, 40, 90])
def test_windows_and_crops_change_nothing(highest):
    """Any size from one pixel on, any number of objects, with and without void: the slow values."""
    rng = np.random.default_rng(highest)
    for _ in range(80):
        size = tuple(int(n) for n in rng.integers(1, highest + 1, 2))
        num_gt, num_results = (int(n) for n in rng.integers(1, 4, 2))
        gt = _rectangles(rng, size, num_gt).astype(np.uint8)
        own = _rectangles(rng, size, num_results).astype(np.uint8)
        void = rng.random(size) < (0.1 if rng.random() < 0.3 else 0)
        found = frame_measures(gt, own, num_gt=num_gt, num_results=num_results, void=void)
        for i, j in np.ndindex(num_gt, num_results):
            slow = slow_metrics.pair_measures(gt == i + 1, own == j + 1, void)
            assert (found[0][i, j], found[1][i, j]) == slow
        slow = slow_metrics.pair_measures(gt > 0, own > 0, void)
        assert mask_measures(gt, own, void=void) == slow
