"""G of YouTube-VOS on a local split."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vis_metrics import (
    GroundTruthError,
    ResultFileError,
    evaluate_ytvos,
    write_sequence,
)
from vis_metrics.region_boundary import mask_measures
from vis_metrics.ytvos import sequence_series

FRAMES = [f"{5 * t:05d}" for t in range(6)]


@pytest.fixture
def split(tmp_path):
    """Two videos; object 4 of ``a`` starts in the third frame."""
    rng = np.random.default_rng(0)
    gt, own, meta = {}, {}, {"videos": {}}
    for name, ids, starts in (("a", [2, 4], [0, 2]), ("b", [1], [0])):
        gt[name] = np.zeros((6, 40, 50), np.uint8)
        own[name] = np.zeros((6, 40, 50), np.uint8)
        objects = {}
        for identity, start in zip(ids, starts):
            for t in range(start, 6):
                y, x = 4 + 9 * (identity - 1), 5 + 3 * t
                gt[name][t, y : y + 8, x : x + 12] = identity
                dy, dx = rng.integers(-1, 2, 2)
                own[name][t, y + dy : y + dy + 8, x + dx : x + dx + 12] = identity
            objects[str(identity)] = {"category": f"class{identity}", "frames": FRAMES[start:]}
        meta["videos"][name] = {"objects": objects}
        write_sequence(tmp_path / "gt" / "Annotations" / name, gt[name], FRAMES)
        write_sequence(tmp_path / "own" / name, own[name], FRAMES)
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    return tmp_path, gt, own


def test_objects_are_scored_after_their_start_and_before_the_end(split):
    root, gt, own = split
    report = evaluate_ytvos(root / "gt", root / "own", meta=root / "meta.json")
    means = {}
    for name, identity, start in (("a", 2, 0), ("a", 4, 2), ("b", 1, 0)):
        pairs = [
            mask_measures(gt[name][t] == identity, own[name][t] == identity)
            for t in range(start + 1, 5)
        ]
        means[f"{name}_{identity}"] = np.mean(pairs, axis=0)
    for key, (region, boundary) in means.items():
        row = report["per_object"][key]
        assert (row["J-Mean"], row["F-Mean"]) == pytest.approx((region, boundary), abs=1e-12)
    region, boundary = np.mean(list(means.values()), axis=0)
    assert report["J_seen"] == pytest.approx(region, abs=1e-12)
    assert np.isnan(report["J_unseen"])
    assert report["G"] == pytest.approx((region + boundary) / 2, abs=1e-12)


def test_seen_and_unseen(split):
    root, _, _ = split
    options = {"meta": json.loads((root / "meta.json").read_text()), "seen": {"class2", "class1"}}
    report = evaluate_ytvos(root / "gt", root / "own", **options)
    rows = report["per_object"]
    assert rows["a_4"]["seen"] is False
    assert report["F_unseen"] == rows["a_4"]["F-Mean"]
    assert report["J_seen"] == pytest.approx((rows["a_2"]["J-Mean"] + rows["b_1"]["J-Mean"]) / 2)
    groups = [report[key] for key in ("J_seen", "J_unseen", "F_seen", "F_unseen")]
    assert report["G"] == pytest.approx(np.mean(groups))
    assert evaluate_ytvos(root / "gt", root / "own", **options, num_workers=2) == report


def test_arrays_equal_files(split):
    root, gt, own = split
    report = evaluate_ytvos(root / "gt", root / "own", meta=root / "meta.json", videos=["a"])
    series = sequence_series(gt["a"], own["a"], starts={2: 0, 4: 2})
    assert np.isnan(series[4][0]).tolist() == [True, True, True, False, False, True]
    assert np.nanmean(series[4][0]) == report["per_object"]["a_4"]["J-Mean"]


@pytest.mark.parametrize(
    ("spoil", "message", "kind"),
    [
        (lambda r: (r / "own/a/00010.png").unlink(), r"00010\.png: missing", ResultFileError),
        (
            lambda r: [f.unlink() for f in (r / "gt/Annotations/a").glob("*.png")][1:],
            "keep secret",
            GroundTruthError,
        ),
        (
            lambda r: write_sequence(r / "own/a", np.full((6, 40, 50), 9), FRAMES),
            "object id 9 is not among",
            ResultFileError,
        ),
        (
            lambda r: write_sequence(r / "own/b", np.zeros((6, 20, 25)), FRAMES),
            "25x20 pixels",
            ResultFileError,
        ),
    ],
)
def test_bad_files(split, spoil, message, kind):
    root, _, _ = split
    spoil(root)
    with pytest.raises(kind, match=message):
        evaluate_ytvos(root / "gt", root / "own", meta=root / "meta.json")


def test_unknown_class_when_classes_matter(split):
    root, _, _ = split
    meta = json.loads((root / "meta.json").read_text())
    del meta["videos"]["a"]["objects"]["2"]["category"]
    evaluate_ytvos(root / "gt", root / "own", meta=meta)
    with pytest.raises(GroundTruthError, match="video a, object 2: has no category"):
        evaluate_ytvos(root / "gt", root / "own", meta=meta, seen={"class4"})
