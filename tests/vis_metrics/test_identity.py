"""IDF1 and identity switches."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from vis_metrics import evaluate_identity, identity_counts, identity_of_label_maps


def boxes(*columns: list[int]) -> np.ndarray:
    """Label maps (T, 12, 60) with one 8-pixel square per id at the given columns; -1 is absent."""
    maps = np.zeros((len(columns[0]), 12, 60), np.uint8)
    for k, places in enumerate(columns):
        for t, x in enumerate(places):
            if x >= 0:
                maps[t, 2:10, x : x + 8] = k + 1
    return maps


def test_perfect_and_empty():
    gt = boxes([0, 1, 2, 3], [30, 31, 32, 33])
    perfect = identity_of_label_maps(gt, gt).report()
    assert perfect == {"IDF1": 1.0, "IDP": 1.0, "IDR": 1.0, "IDSW": 0}
    none = identity_of_label_maps(gt, np.zeros_like(gt)).report()
    assert none["IDF1"] == 0.0 and none["IDSW"] == 0 and math.isnan(none["IDP"])
    nothing = identity_of_label_maps(np.zeros_like(gt), np.zeros_like(gt)).report()
    assert math.isnan(nothing["IDF1"])


def test_swap_half_way():
    gt = boxes([0, 0, 0, 0], [30, 30, 30, 30])
    own = boxes([0, 0, 30, 30], [30, 30, 0, 0])
    counts = identity_of_label_maps(gt, own)
    assert counts == (4, 8, 8, 2)
    assert counts.report()["IDF1"] == 0.5


def test_new_identity_after_a_gap_is_a_switch():
    gt = boxes([0, 0, -1, 0, 0])
    own = boxes([0, 0, -1, -1, -1], [-1, -1, -1, 0, 0])
    assert identity_of_label_maps(gt, own) == (2, 4, 4, 1)


def test_earlier_pair_is_kept_though_another_overlaps_more():
    gt = boxes([10, 10])
    iou = np.zeros((2, 2, 1))
    iou[:, :, 0] = [[0.9, 0.6], [0.6, 0.9]]  # track 0 first, then track 1 fits better
    present = np.ones((2, 2), bool)
    assert identity_counts(iou, present, np.ones((2, 1), bool)).switches == 0
    assert gt.any()


def test_equals_search_over_all_pairings():
    rng = np.random.default_rng(0)
    for _ in range(20):
        iou = rng.random((6, 3, 4))
        tracks, objects = rng.random((6, 3)) < 0.8, rng.random((6, 4)) < 0.8
        agree = (iou >= 0.5) & tracks[:, :, None] & objects[:, None]
        best = max(
            sum(int(agree[:, d, g].sum()) for d, g in enumerate(choice))
            for choice in itertools.permutations(range(4), 3)
        )
        counts = identity_counts(iou, tracks, objects)
        assert counts[:3] == (best, objects.sum(), tracks.sum())


def test_length_mismatch():
    with pytest.raises(ValueError, match="2 label maps for 3"):
        identity_of_label_maps(np.zeros((3, 4, 4), np.uint8), np.zeros((2, 4, 4), np.uint8))


def test_ytvis_files(golden):
    truth = golden("metrics/ytvis_gt.json")
    perfect = golden("metrics/ytvis_pred_perfect.json")
    report = evaluate_identity(truth, perfect, min_score=0.0)
    assert report["IDF1"] == 1.0 and report["IDSW"] == 0
    assert set(report["per_category"]) == {f"class_{k}" for k in range(1, 6)}
    poor = evaluate_identity(truth, golden("metrics/ytvis_pred_poor.json"), min_score=0.0)
    assert poor["IDF1"] < 0.5
    results = json.loads(perfect.read_text())
    for track in results:  # class-aware: the right masks under the wrong class are worth nothing
        track["category_id"] = track["category_id"] % 5 + 1
    assert evaluate_identity(truth, results, min_score=0.0)["IDF1"] < 0.2
