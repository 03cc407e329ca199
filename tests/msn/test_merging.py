"""Stage 3 on masks: recorded cases of merging and of held objects."""

from __future__ import annotations

import json

import numpy as np
import torch

from vis_projects.msn.association import mask_iou
from vis_projects.msn.direction import Direction, DirectionTrack
from vis_projects.msn.final_tracks import StageThreeRules, final_tracks
from vis_projects.msn.human_object import find_owners, join_held, pixels_near
from vis_projects.msn.merging import (
    BACKWARD,
    FORWARD,
    Run,
    count_votes,
    label_map_iou,
    merge,
    same_class_pairs,
)
from vis_projects.structures import encode_masks


def _unpack(flat: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.unpackbits(flat)[: int(np.prod(shape))].reshape(shape).astype(bool)


def _run(masks: np.ndarray, classes, scores) -> Run:
    return Run(masks.any((2, 3)), classes, scores)


def test_recorded_merges(golden):
    info = json.loads(golden("msn/merge.json").read_text())
    arrays = np.load(golden("msn/merge.npz"))
    size = (info["height"], info["width"])
    for k, case in enumerate(info["cases"]):
        name, frames = case["name"], case["frames"]
        f = _unpack(arrays[f"{k}_fwd"], (case["n_fwd"], frames, *size))
        b = _unpack(arrays[f"{k}_bwd"], (case["n_bwd"], frames, *size))
        threshold = case["options"].get("iou_thr", 0.5)
        ious = [
            mask_iou(torch.from_numpy(f[:, t]), torch.from_numpy(b[:, t])) for t in range(frames)
        ]
        runs = (
            _run(f, case["f_cls"], case["f_score"]),
            _run(b, case["b_cls"], case["b_score"]),
        )
        same_class = case["options"].get("same_class", False)
        allowed = same_class_pairs(*runs) if same_class else None
        votes, total = count_votes(ious, threshold, allowed=allowed)
        np.testing.assert_array_equal(votes, arrays[f"{k}_votes"], err_msg=name)
        np.testing.assert_allclose(total, arrays[f"{k}_iou_sum"], atol=1e-9, err_msg=name)
        f_qual, b_qual = arrays[f"{k}_f_qual"], arrays[f"{k}_b_qual"]
        tracks = merge(
            *runs,
            ious,
            threshold=threshold,
            same_class=same_class,
            forward_better=lambda asked, f_qual=f_qual, b_qual=b_qual: [
                f_qual[i, t] >= b_qual[j, t] for t, i, j in asked
            ],
        )
        letters = {FORWARD: "f", BACKWARD: "b"}
        groups = [[[letters[d], i] for d, i in track.members] for track in tracks]
        assert groups == case["groups"], name
        assert [t.category for t in tracks] == arrays[f"{k}_out_cls"].tolist(), name
        np.testing.assert_allclose([t.score for t in tracks], arrays[f"{k}_out_score"])
        origin = np.array([t.origin for t in tracks])
        np.testing.assert_array_equal(origin, arrays[f"{k}_out_origin"], err_msg=name)
        out = np.zeros((len(tracks), frames, *size), bool)
        for n, track in enumerate(tracks):
            for t in range(frames):
                if track.origin[t]:
                    out[n, t] = (f if track.origin[t] == FORWARD else b)[track.member[t], t]
        np.testing.assert_array_equal(out, _unpack(arrays[f"{k}_out"], out.shape), err_msg=name)


def test_label_map_iou_equals_that_of_masks():
    rng = np.random.default_rng(2)
    f, b = (torch.from_numpy(rng.integers(0, 4, (13, 17))) for _ in range(2))
    b[b == 3] = 0  # a track without pixels
    masks = [torch.stack([m == i for i in (1, 2, 3)]) for m in (f, b)]
    assert torch.equal(label_map_iou(f, b, 3, 3), mask_iou(*masks))
    assert label_map_iou(f, b, 3, 3).shape == (3, 3)
    assert label_map_iou(torch.zeros(2, 2), torch.zeros(2, 2), 0, 0).shape == (0, 0)


def test_one_direction_alone():
    run = Run(np.array([[True, False, True]]), [4], [0.5])
    none = Run(np.zeros((0, 3), bool), [], [])
    tracks = merge(run, none, [torch.zeros(1, 0, dtype=torch.float64)] * 3)
    assert [t.origin.tolist() for t in tracks] == [[1, 0, 1]]
    assert merge(none, none, []) == []


def test_recorded_held_objects(golden):
    arrays = np.load(golden("msn/human_object.npz"))
    tracks = _unpack(arrays["tracks"], tuple(arrays["shape"]))
    present, classes = tracks.any((2, 3)), arrays["cls"].tolist()
    owners = find_owners(
        lambda t, rows: torch.from_numpy(tracks[rows, t]),
        present,
        classes,
        person=25,
        held=(2, 18, 29, 30, 32, 36),
    )
    assert owners == arrays["owner"].tolist()
    groups = join_held(present, classes, owners)
    group_of = {i: g[0] for g in groups for i in g}
    assert [group_of[i] for i in range(len(classes))] == arrays["group"].tolist()
    out = np.stack([tracks[g].any(0) for g in groups])
    np.testing.assert_array_equal(out, _unpack(arrays["out"], out.shape))
    assert [classes[g[0]] for g in groups] == arrays["out_cls"].tolist()
    scores = [max(arrays["score"][g]) for g in groups]
    np.testing.assert_allclose(scores, arrays["out_score"])


def test_pixels_near_equal_a_slow_count():
    rng = np.random.default_rng(4)
    persons = torch.from_numpy(rng.random((2, 30, 40)) > 0.7)
    objects = torch.zeros(3, 30, 40, dtype=torch.bool)
    objects[0, 3:8, 5:25] = objects[1, 29, 39] = objects[2, :, 10] = True
    got = pixels_near(persons, objects)
    for i, mask in enumerate(objects):
        y, x = np.nonzero(mask.numpy())
        h, w = y.max() - y.min() + 1, x.max() - x.min() + 1
        grow_y, grow_x = -(-h // 10), -(-w // 10)
        window = persons[
            :,
            max(y.min() - grow_y, 0) : y.max() + 1 + grow_y,
            max(x.min() - grow_x, 0) : x.max() + 1 + grow_x,
        ]
        assert got[i].tolist() == window.sum((1, 2)).tolist()


def test_tracks_of_a_video_can_be_limited():
    """Section 4.1's 15 may count a direction (the default) or the video."""
    masks = torch.zeros((4, 8, 12), dtype=torch.bool)
    for k in range(4):
        masks[k, :, 3 * k : 3 * k + 2] = True
    rles = encode_masks(masks)
    tracks = [DirectionTrack(0, [(0, 0, 0.2 * k + 0.1)], {0: rles[k]}) for k in range(4)]
    run = Direction(tracks, 1, (8, 12))

    def kept(limit: int) -> list[float]:
        rules = StageThreeRules(human_object=False, max_tracks=limit)
        found = final_tracks(run, None, rules, device=torch.device("cpu"), better=lambda *_: [])
        return [round(t.score, 1) for t in found]

    assert kept(0) == [0.1, 0.3, 0.5, 0.7]
    assert kept(2) == [0.5, 0.7]
    assert kept(9) == kept(0)
