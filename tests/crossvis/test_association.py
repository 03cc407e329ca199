"""Linking detections to tracks: the recorded decisions, the other rules, the limits."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from vis_projects.crossvis.association import box_iou, claim, match_by_threshold
from vis_projects.crossvis.gallery import Gallery
from vis_projects.structures import (
    FrameResult,
    InputError,
    TrackRecorder,
    VideoInfo,
    encode_masks,
)


@pytest.mark.parametrize("name", ["tracker", "tracker_random"])
def test_released_rule_decides_as_recorded(golden, name):
    d = {k: torch.from_numpy(v) for k, v in np.load(golden(f"crossvis/{name}.npz")).items()}
    height, width = d["size"].tolist()
    masks = torch.from_numpy(np.unpackbits(d["masks"].numpy(), axis=-1)[..., :width]).bool()
    gallery = Gallery()
    recorder = TrackRecorder(VideoInfo((height, width)), keep_empty=True)
    for t in range(int(d["num_frames"])):
        rows = d["frame"] == t
        ids = gallery.update(
            d["boxes"][rows], d["labels"][rows], d["scores"][rows], d["embeddings"][rows]
        )
        want = d["ids"][rows].numpy()
        assert np.array_equal(ids, np.where(want >= 0, want + 1, -1)), f"frame {t}"
        ids = torch.from_numpy(ids)
        kept = ids > 0
        recorder.add(
            FrameResult.build(
                masks[rows][kept],
                ids[kept],
                scores=d["scores"][rows][kept],
                classes=d["labels"][rows][kept],
                index=t,
            )
        )
    result = recorder.finish()
    recorded = json.loads(golden(f"crossvis/{name}_results.json").read_text())
    assert len(result.tracks) == len(recorded)
    for track, want in zip(result.tracks, recorded):
        assert track.category + 1 == want["category_id"]
        assert track.score == pytest.approx(want["score"], abs=1e-6)
        assert track.masks == want["segmentations"]
    assert encode_masks(masks[:1])[0]["size"] == [height, width]


def unit(*angles):
    a = torch.tensor(angles)
    return torch.stack([a.cos(), a.sin()], 1)


def boxes(*left):
    x = torch.tensor(left, dtype=torch.float32)
    return torch.stack([x, torch.zeros_like(x), x + 10, torch.full_like(x, 10)], 1)


def update(gallery, left, angles, classes=None, scores=None):
    n = len(left)
    return gallery.update(
        boxes(*left),
        torch.tensor(classes or [0] * n),
        torch.tensor(scores or [0.9] * n),
        unit(*angles),
    ).tolist()


def test_a_loser_is_discarded_and_ties_go_to_the_first():
    best = torch.tensor([0, 0, 1, 2, 2])
    scores = torch.tensor([0.5, 0.9, 0.3, 0.7, 0.7])
    assert claim(scores, best, 3).tolist() == [-1, 0, 1, 2, -1]
    # New ones never compete.
    assert claim(scores, torch.full((5,), 3), 3).tolist() == [3] * 5


def test_match_is_the_first_maximum_and_may_be_refused():
    scores = torch.tensor([[0.5, 0.5], [0.39, 0.1]])
    assert match_by_threshold(scores, 0.4).tolist() == [0, 2]
    assert match_by_threshold(torch.zeros(2, 0), 0.4).tolist() == [0, 0]


def test_iou_rule_ignores_the_embedding():
    for rule, want in (("iou", [2, 1]), ("crossvis", [1, 2])):
        gallery = Gallery(rule)
        assert update(gallery, [0.0, 12.0], [0.0, 3.0]) == [1, 2]
        assert update(gallery, [10.0, 1.0], [0.0, 3.0]) == want, rule


def test_masktrack_rule_equals_its_formula():
    gallery = Gallery("masktrack")
    first = 2 * unit(0.0, 2.0)
    gallery.update(boxes(0.0, 30.0), torch.tensor([0, 1]), torch.tensor([0.9, 0.8]), first)
    e, b = 2 * unit(0.2, 0.1, 2.0), boxes(2.0, 3.0, 30.0)
    classes, scores = torch.tensor([0, 0, 0]), torch.tensor([0.5, 0.9, 0.7])
    ids = gallery.update(b, classes, scores, e)
    matrix = np.zeros((3, 3))
    for d in range(3):
        logits = [0.0, *(e[d] @ first.T).tolist()]
        total = np.log(np.exp(logits).sum())
        for k in range(3):
            iou = 0 if k == 0 else box_iou(b[d : d + 1], boxes(0.0, 30.0)[k - 1 : k]).item()
            same = 1 if k == 0 else float(classes[d] == [0, 1][k - 1])
            matrix[d, k] = logits[k] - total + np.log(scores[d].item()) + 2 * iou + 10 * same
    best = matrix.argmax(1)
    assert best.tolist() == [1, 1, 0]
    assert ids.tolist() == [-1, 1, 3]  # the surer detection keeps the track; another class is new


def test_box_iou_of_touching_and_empty_boxes():
    a = torch.tensor([[0.0, 0, 10, 10], [5.0, 5, 5, 5]])
    iou = box_iou(a, a)
    assert iou[0, 0].item() == pytest.approx(1, abs=1e-6)
    assert iou[1].tolist() == [0, 0]


def test_a_frame_without_detections_changes_nothing():
    gallery = Gallery()
    assert update(gallery, [0.0], [0.0]) == [1]
    nothing = torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0), torch.zeros(0, 2)
    assert gallery.update(*nothing).size == 0
    assert update(gallery, [0.0], [0.0]) == [1]


def test_max_age_forgets_after_that_many_missed_frames():
    for missed, want in ((0, 1), (2, 1), (3, 2)):
        gallery = Gallery(max_age=2)
        assert update(gallery, [0.0], [0.0]) == [1]
        for _ in range(missed):
            update(gallery, [], [])
        assert update(gallery, [0.0], [0.0]) == [want], missed


def test_max_tracks_keeps_those_seen_last_and_bounds_memory():
    gallery = Gallery(max_tracks=2)
    assert update(gallery, [0.0, 20.0], [0.0, 2.0]) == [1, 2]
    assert update(gallery, [20.0, 40.0], [2.0, 4.0]) == [2, 3]  # track 1 is forgotten
    assert len(gallery) == len(gallery.embeddings) == 2
    assert update(gallery, [0.0], [0.0]) == [4]
    for t in range(30):
        update(gallery, [100.0 * t, 100.0 * t + 50], [0.1 * t, 3 + 0.1 * t], classes=[t, t])
        assert len(gallery) == len(gallery.boxes) == 2


def test_unlimited_gallery_returns_after_a_long_absence():
    gallery = Gallery()
    update(gallery, [0.0], [0.0])
    for _ in range(50):
        update(gallery, [50.0], [3.0], classes=[1])
    assert update(gallery, [0.0], [0.0]) == [1]
    gallery.reset()
    assert update(gallery, [0.0], [0.0]) == [1] and len(gallery) == 1


def test_an_unknown_rule_is_named():
    with pytest.raises(InputError, match="TRACKER.RULE 'nearest' is unknown"):
        Gallery("nearest")
