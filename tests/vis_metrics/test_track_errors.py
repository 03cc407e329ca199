"""Error analysis: every made error lands in its kind, and mending all of them gives an AP of 1."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as mask_util

from vis_metrics import analyse_errors, evaluate_ytvis
from vis_metrics.track_errors import KINDS

T, H, W = 10, 40, 60


def box(top: int, left: int, size: int = 10, frames=range(T)) -> list:
    """A square in some frames, as RLEs."""
    mask = np.zeros((H, W), np.uint8, order="F")
    mask[top : top + size, left : left + size] = 1
    rle = mask_util.encode(mask)
    rle["counts"] = rle["counts"].decode()
    return [rle if t in frames else None for t in range(T)]


def truth(*objects: tuple[int, list], categories: int = 3, crowd: tuple[int, ...] = ()) -> dict:
    return {
        "videos": [{"id": 1, "height": H, "width": W, "length": T, "file_names": ["x"] * T}],
        "categories": [{"id": c, "name": f"c{c}"} for c in range(1, categories + 1)],
        "annotations": [
            {
                "id": k,
                "video_id": 1,
                "category_id": category,
                "iscrowd": int(k in crowd),
                "segmentations": tube,
                "bboxes": [[0, 0, 1, 1] if m else None for m in tube],
                "areas": [int(mask_util.area(m)) if m else None for m in tube],
            }
            for k, (category, tube) in enumerate(objects, 1)
        ],
    }


def result(*tracks: tuple[int, float, list]) -> list[dict]:
    return [
        {"video_id": 1, "category_id": c, "score": s, "segmentations": tube}
        for c, s, tube in tracks
    ]


A, B = box(0, 0), box(20, 30)
MADE = {
    "class": (2, 0.9, A),
    "spatial": (1, 0.9, box(4, 4)),
    "temporal": (1, 0.9, box(0, 0, frames=range(4))),
    "switch": (1, 0.9, box(0, 0, frames=range(5))[:5] + B[5:]),
    "background": (1, 0.9, box(28, 5)),
}


@pytest.mark.parametrize("kind", MADE)
def test_a_made_error_lands_in_its_kind(kind: str) -> None:
    gt = truth((1, A), (1, B), (2, box(28, 45)))
    rest = [(2, 0.8, box(28, 45))] + ([] if kind == "switch" else [(1, 0.7, B)])
    report = analyse_errors(gt, result(MADE[kind], *rest))
    counts = report.counts()
    assert counts.pop(kind) == 1
    # Only an error that stands for no object leaves one that is missed.
    missed = {"background": 1, "switch": 1}.get(kind, 0)
    assert counts.pop("missed") == missed
    assert not any(counts.values())
    assert report.cost[kind] > 0.05
    assert report.mended == 1


def test_duplicates_and_missed_objects() -> None:
    gt = truth((1, A), (1, B))
    report = analyse_errors(gt, result((1, 0.9, A), (1, 0.8, A)))
    assert [(e.kind, e.object_id) for e in report.errors] == [("duplicate", 1), ("missed", 2)]
    assert report.cost["missed"] > 0.4
    assert report.cost["duplicate"] == 0  # it comes after the only hit
    first = analyse_errors(gt, result((1, 0.9, A), (1, 0.8, A), (1, 0.7, B)))
    assert first.cost["duplicate"] > 0.1


def random_case(seed: int) -> tuple[dict, list[dict]]:
    rng = np.random.default_rng(seed)
    objects, tracks = [], []
    for _ in range(rng.integers(1, 8)):
        start, end = sorted(rng.integers(0, T + 1, 2))
        frames = range(start, max(end, start + 1))
        place = (int(rng.integers(0, 28)), int(rng.integers(0, 48)))
        objects.append((int(rng.integers(1, 4)), box(*place, frames=frames)))
        for _ in range(rng.integers(0, 4)):
            moved = np.clip(np.add(place, rng.integers(-6, 7, 2)), 0, (28, 48))
            other = range(rng.integers(0, 5), rng.integers(5, T + 1))
            score = float(rng.integers(1, 20)) / 20  # equal scores occur
            tracks.append((int(rng.integers(1, 4)), score, box(*map(int, moved), frames=other)))
    crowd = (1,) if seed % 3 == 0 else ()
    return truth(*objects, crowd=crowd), result(*tracks)


@pytest.mark.parametrize("seed", range(30))
def test_sums_hold_on_random_cases(seed: int) -> None:
    gt, tracks = random_case(seed)
    report = analyse_errors(gt, tracks)
    unequal = [{**t, "score": t["score"] + 1e-6 * k} for k, t in enumerate(tracks)]
    official = evaluate_ytvis(gt, unequal)["AP50"]
    ours = analyse_errors(gt, unequal)
    if np.isnan(official):
        assert np.isnan(report.ap50)
        return
    assert ours.ap50 == pytest.approx(official, abs=1e-12)
    assert report.mended == pytest.approx(1, abs=1e-12)
    assert all(cost >= -1e-12 for kind, cost in report.cost.items() if kind != "class")
    counted = sum(not a["iscrowd"] for a in gt["annotations"])
    true = len(tracks) - sum(np.isfinite(e.score) for e in report.errors)
    assert report.counts()["missed"] <= counted
    assert true >= 0
    rng = np.random.default_rng(seed)
    for _ in range(3):
        shuffled = [tracks[i] for i in rng.permutation(len(tracks))]
        again = analyse_errors(gt, shuffled)
        assert again.cost == report.cost and again.counts() == report.counts()


def test_crowds_and_empty_results() -> None:
    gt = truth((1, A), (1, B), crowd=(2,))
    assert analyse_errors(gt, result((1, 0.9, B), (1, 0.8, A))).errors == []
    empty = analyse_errors(gt, [])
    assert empty.ap50 == 0 and empty.counts()["missed"] == 1
    assert set(empty.cost) == set(KINDS)
