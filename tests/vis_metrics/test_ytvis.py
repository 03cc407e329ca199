"""AP over tubes: official figures, a slow version, intervals, tube IoU."""

from __future__ import annotations

import copy
import hashlib
import json
import math

import numpy as np
import pytest
import slow_metrics
from pycocotools import mask as mask_util

from vis_metrics import bootstrap_ytvis, evaluate_ytvis, write_ytvis_results
from vis_metrics.bootstrap import bootstrap, bootstrap_davis, bootstrap_matches
from vis_metrics.files.ytvis_files import compressed, read_ground_truth, read_results
from vis_metrics.ytvis import match_tracks, summarize, tube_iou

TOLERANCE = 1e-12
KEYS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
SETS = ["perfect", "good", "medium", "poor", "ties", "partial"]
SETS += ["twins_perfect", "twins_medium", "twins_ties"]


@pytest.fixture
def files(golden):
    def choose(name: str):
        truth = "ytvis_gt_twins.json" if name.startswith("twins") else "ytvis_gt.json"
        own = f"ytvis_pred_{name.removeprefix('twins_')}.json"
        return golden(f"metrics/{truth}"), golden(f"metrics/{own}")

    return choose


def or_minus_one(value: float) -> float:
    return -1.0 if math.isnan(value) else value


def numbers(report) -> list[float]:
    return [or_minus_one(report[key]) for key in KEYS]


@pytest.mark.parametrize("name", SETS)
def test_official_figures(name, files, golden):
    expected = json.loads(golden("metrics/ytvis_expected.json").read_text())[name]
    arrays = np.load(golden("metrics/ytvis_expected_arrays.npz"))
    matches = match_tracks(*files(name))
    curves = matches.curves()
    report = summarize(matches, curves)
    assert np.abs(np.subtract(numbers(report), expected["stats"])).max() < TOLERANCE
    for category, value in expected["per_category_AP"].items():
        own = report["per_category"][f"class_{category}"]
        assert math.isnan(own) if value is None else abs(own - value) < TOLERANCE
    for key, own in (("precision", curves.precision), ("recall", curves.recall)):
        if f"{name}/{key}" in arrays:
            assert np.abs(own - arrays[f"{name}/{key}"]).max() < TOLERANCE
        digest = hashlib.sha256(np.ascontiguousarray(own, "<f8").tobytes()).hexdigest()
        assert digest == expected["sha256"][key]
    assert list(report)[:12] == KEYS


def test_number_of_predictions(files, golden):
    expected = json.loads(golden("metrics/ytvis_expected.json").read_text())
    for name in SETS[:6]:
        if "num_predictions" in expected[name]:
            assert len(json.loads(files(name)[1].read_text())) == expected[name]["num_predictions"]


def test_tube_iou_of_recorded_pairs(files, golden):
    expected = json.loads(golden("metrics/ytvis_expected_ious.json").read_text())["medium"]
    truth = read_ground_truth(files("medium")[0])
    tracks = read_results(files("medium")[1], truth)
    for key, wanted in expected.items():
        video, category = map(int, key.split("_"))
        own = [t for t in tracks[video] if t["category_id"] == category]
        own.sort(key=lambda t: -t["score"])
        tubes = [t["segmentations"] for t in own]
        size = truth.videos[video]
        masks = [
            [compressed(m, size) for m in entry["segmentations"]]
            for entry in truth.annotations[video]
            if entry["category_id"] == category
        ]
        iou, _ = tube_iou(tubes, masks, length=size.length)
        assert np.abs(iou - wanted).max() < TOLERANCE
        pruned, _ = tube_iou(tubes, masks, length=size.length, minimum=0.5)
        assert (pruned[iou >= 0.5] == iou[iou >= 0.5]).all()
        assert (pruned[iou < 0.5] < 0.5).all()


def random_case(seed: int):
    """A small data set full of ties: few scores, few shapes, crowds, gaps, all size ranges."""
    rng = np.random.default_rng(seed)
    videos = [
        {"id": i, "height": 300, "width": 310, "length": 4} for i in rng.permutation(5).tolist()
    ]
    shapes = []
    for side in (20, 60, 140, 150, 260, 280):
        for shift in (0, 3, 9):
            mask = np.zeros((300, 310), np.uint8, order="F")
            mask[shift : shift + side, 5 : 5 + side] = 1
            rle = mask_util.encode(mask)
            shapes.append({"size": [300, 310], "counts": rle["counts"].decode()})

    def tube():
        base = rng.integers(6) * 3
        picks = [shapes[base + rng.integers(3)] for _ in range(4)]
        return [None if rng.random() < 0.2 else p for p in picks]

    annotations, results = [], []
    for video in videos:
        for _ in range(rng.integers(0, 6)):
            masks = tube()
            areas = [None if m is None else int(mask_util.area(m)) for m in masks]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "video_id": video["id"],
                    "category_id": int(rng.integers(1, 3)),
                    "iscrowd": int(rng.random() < 0.2),
                    "areas": areas,
                    "segmentations": masks,
                }
            )
        for _ in range(rng.integers(0, 14)):
            results.append(
                {
                    "video_id": video["id"],
                    "category_id": int(rng.integers(1, 3)),
                    "score": float(rng.integers(0, 4)) / 4,
                    "segmentations": tube(),
                }
            )
    categories = [{"id": k, "name": f"c{k}"} for k in (1, 2, 3)]
    return {"videos": videos, "categories": categories, "annotations": annotations}, results


@pytest.mark.parametrize("seed", range(6))
def test_equals_slow_version(seed):
    truth, results = random_case(seed)
    fast, slow = evaluate_ytvis(truth, results), slow_metrics.ytvis(truth, results)
    for key in KEYS:
        assert or_minus_one(fast[key]) == pytest.approx(slow[key], abs=TOLERANCE), key


def test_slow_version_has_the_official_figures(files, golden):
    expected = json.loads(golden("metrics/ytvis_expected.json").read_text())["medium"]["stats"]
    slow = slow_metrics.ytvis(*(json.loads(file.read_text()) for file in files("medium")))
    assert np.abs(np.subtract([slow[key] for key in KEYS], expected)).max() < TOLERANCE


def test_order_of_equal_scores_counts(files, golden):
    truth, own = files("ties")
    backwards = json.loads(own.read_text())[::-1]
    assert round(evaluate_ytvis(truth, own)["AP"], 4) == 0.1245
    assert round(evaluate_ytvis(truth, backwards)["AP"], 4) == 0.1197


def test_scores_stay_float64(files):
    truth, own = files("medium")
    results = json.loads(own.read_text())
    for rank, track in enumerate(results):
        track["score"] = 0.5 + 1e-9 * ((rank * 7919) % len(results))
    order = sorted(range(len(results)), key=lambda i: results[i]["score"])
    spread = copy.deepcopy(results)
    for rank, index in enumerate(order):
        spread[index]["score"] = rank / len(results)
    assert numbers(evaluate_ytvis(truth, results)) == numbers(evaluate_ytvis(truth, spread))


def test_zip_list_and_file_agree(files, tmp_path):
    truth, own = files("good")
    entries = json.loads(own.read_text())
    archive = write_ytvis_results(entries, tmp_path / "results.json")
    wanted = evaluate_ytvis(truth, own)
    for place in (entries, archive, tmp_path / "results.json"):
        for key in KEYS:
            assert evaluate_ytvis(truth, place)[key] == wanted[key]


def test_nothing_predicted_and_nothing_there(files):
    truth = json.loads(files("good")[0].read_text())
    assert evaluate_ytvis(truth, [])["AP"] == 0.0
    truth["annotations"] = []
    report = evaluate_ytvis(truth, [])
    assert all(math.isnan(report[key]) for key in KEYS)


def test_null_and_empty_mask_score_the_same(files):
    truth = json.loads(files("good")[0].read_text())
    own = json.loads(files("good")[1].read_text())
    sizes = {v["id"]: (v["height"], v["width"]) for v in truth["videos"]}
    filled = copy.deepcopy(own)
    for track in filled:
        size = sizes[track["video_id"]]
        empty = mask_util.encode(np.zeros(size, np.uint8, order="F"))
        empty = {"size": list(size), "counts": empty["counts"].decode()}
        track["segmentations"] = [m or empty for m in track["segmentations"]]
    assert [evaluate_ytvis(truth, filled)[k] for k in KEYS] == [
        evaluate_ytvis(truth, own)[k] for k in KEYS
    ]


def test_missing_areas_come_from_the_masks():
    truth, results = random_case(1)
    wanted = evaluate_ytvis(truth, results)
    for entry in truth["annotations"]:
        del entry["areas"]
    assert numbers(evaluate_ytvis(truth, results)) == pytest.approx(numbers(wanted))


def test_occlusion_levels():
    truth, results = random_case(2)
    levels = ["no_occlusion", "slight_occlusion", "severe_occlusion"]
    for index, entry in enumerate(truth["annotations"]):
        entry["occlusion"] = [levels[index % 3]] * 4
    report = evaluate_ytvis(truth, results)
    assert {"AP_light", "AP_medium", "AP_heavy", "AR_light", "AR_medium", "AR_heavy"} <= set(report)
    assert len([key for key in report if key != "per_category"]) == 18
    for entry in truth["annotations"]:
        entry["occlusion"] = ["no_occlusion"] * 4
    report = evaluate_ytvis(truth, results)
    assert report["AR_light"] == report["AR100"] and math.isnan(report["AP_heavy"])


def test_more_than_255_masks_in_one_video(files):
    truth, results = random_case(3)
    repeated = results * 12  # pycocotools' area breaks on longer lists with numpy 2
    assert evaluate_ytvis(truth, repeated)["AR100"] >= evaluate_ytvis(truth, results)["AR1"]


# Confidence intervals ----------------------------------------------------------------------------


def test_weights_equal_copies():
    truth, results = random_case(4)
    for index, track in enumerate(results):
        track["score"] += 1e-3 * (index % 14)  # equal scores in different videos only
    rng = np.random.default_rng(0)
    matches = match_tracks(truth, results)
    order = sorted(v["id"] for v in truth["videos"])
    for _ in range(5):
        weights = rng.integers(0, 4, len(order))
        weighted = summarize(matches, matches.curves(weights))
        copied = copies_of(truth, results, dict(zip(order, weights.tolist())))
        wanted = evaluate_ytvis(*copied)
        for key in KEYS:
            own = or_minus_one(weighted[key])
            assert own == pytest.approx(or_minus_one(wanted[key]), abs=TOLERANCE)


def copies_of(truth, results, weights):
    """The data set in which every video occurs as often as its weight says."""
    new = {"videos": [], "categories": truth["categories"], "annotations": []}
    tracks = []
    for video in truth["videos"]:
        for copy_index in range(weights[video["id"]]):
            identity = 100 * video["id"] + copy_index
            new["videos"].append({**video, "id": identity})
            for source, target in ((truth["annotations"], new["annotations"]), (results, tracks)):
                for entry in source:
                    if entry["video_id"] == video["id"]:
                        entry = {**entry, "video_id": identity}
                        if target is new["annotations"]:
                            entry["id"] = len(target) + 1
                        target.append(entry)
    if not new["videos"]:
        new["videos"] = truth["videos"][:1]
    return new, tracks


def test_interval_of_ap(files):
    first = bootstrap_ytvis(*files("medium"), samples=60, seed=3)
    assert first == bootstrap_ytvis(*files("medium"), samples=60, seed=3)
    assert first != bootstrap_ytvis(*files("medium"), samples=60, seed=4)
    assert first.low <= first.mean <= first.high
    perfect = bootstrap_matches(match_tracks(*files("perfect")), samples=20)
    assert perfect == pytest.approx((1, 1, 1))


def test_interval_of_one_video_is_a_point():
    assert bootstrap(lambda weights: 0.25 * weights[0], 1, samples=5) == (0.25, 0.25, 0.25)
    with pytest.raises(ValueError, match="confidence"):
        bootstrap(lambda weights: 0.0, 1, confidence=1.0)


def test_interval_of_davis():
    rows = {f"s{i}_{k}": {"J-Mean": i / 4, "F-Mean": i / 4} for i in range(4) for k in (1, 2)}
    interval = bootstrap_davis({"per_object": rows}, samples=400)
    assert interval.low < interval.mean < interval.high
    assert interval.mean == pytest.approx(0.375, abs=0.03)
