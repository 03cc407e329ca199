"""Stage 2 on masks: recorded cases, and the vectorised parts against obvious loops."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from vis_projects.msn.association import (
    StageTwoRules,
    class_and_score,
    decide_frame,
    drop_duplicates,
    paint_selected,
)
from vis_projects.structures import InputError


def _cases(golden):
    info = json.loads(golden("msn/association.json").read_text())
    arrays = np.load(golden("msn/association.npz"))
    size = (info["height"], info["width"])
    for k, case in enumerate(info["cases"]):

        def masks(name: str, count: int, k: int = k) -> torch.Tensor:
            flat = np.unpackbits(arrays[f"{k}_{name}"])[: count * size[0] * size[1]]
            return torch.from_numpy(flat.reshape(count, *size).astype(bool))

        yield k, case, arrays, masks


def test_recorded_frames(golden):
    for k, case, arrays, masks in _cases(golden):
        propagated, segmented = masks("prop", case["n_prop"]), masks("seg", case["n_seg"])
        options = dict(case["options"])
        rules = StageTwoRules(
            associate_iou=options.pop("iou_thr", 0.1),
            new_max_overlap=options.pop("max_overlap", 0.0),
            max_objects=options.pop("max_objects", 15),
            new_object_rule="same_class" if options.pop("same_class", True) else "any_class",
        )
        assert not options
        prefer = torch.from_numpy(arrays[f"{k}_prefer_seg"])

        def choose(a, b, propagated=propagated, segmented=segmented, prefer=prefer):
            rows = [next(j for j, p in enumerate(propagated) if torch.equal(p, m)) for m in a]
            columns = [next(i for i, s in enumerate(segmented) if torch.equal(s, m)) for m in b]
            return ~prefer[columns, rows]

        decision = decide_frame(
            propagated,
            torch.from_numpy(arrays[f"{k}_prop_cls"]),
            segmented,
            torch.from_numpy(arrays[f"{k}_seg_cls"]),
            torch.from_numpy(arrays[f"{k}_seg_score"]),
            count=case["n_tracks"],
            choose=choose,
            rules=rules,
        )
        name = case["name"]
        np.testing.assert_allclose(decision.iou, arrays[f"{k}_iou"], atol=1e-9, err_msg=name)
        assert [list(p) for p in decision.pairs] == case["pairs_seg_prop"], name
        took = {str(j): int(t) for (_, j), t in zip(decision.pairs, decision.took_segmentation)}
        assert took == case["took_segmentation"], name
        assert decision.new == case["new_seg_indices"], name
        np.testing.assert_array_equal(decision.label, arrays[f"{k}_label"], err_msg=name)


def test_painting_equals_a_loop():
    rng = np.random.default_rng(0)
    for _ in range(20):
        label = rng.integers(0, 5, (9, 11))
        propagated = torch.from_numpy(label[None] == np.arange(1, 5)[:, None, None])
        tracks = torch.from_numpy(rng.permutation(4)[:3])
        segmented = torch.from_numpy(rng.random((3, 9, 11)) > 0.5)
        scores, take = torch.from_numpy(rng.random(3)), torch.from_numpy(rng.random(3) > 0.4)
        slow = torch.zeros(9, 11, dtype=torch.int64)
        swapped = {int(tracks[i]) for i in range(3) if take[i]}
        for j in range(4):
            if j not in swapped:
                slow[propagated[j]] = j + 1
        for i in sorted(range(3), key=lambda i: -scores[i]):
            if take[i]:
                slow[segmented[i] & (slow == 0)] = int(tracks[i]) + 1
        assert torch.equal(paint_selected(propagated, segmented, scores, tracks, take), slow)


def _box(x0: int, x1: int) -> torch.Tensor:
    mask = torch.zeros(8, 40, dtype=torch.bool)
    mask[2:6, x0:x1] = True
    return mask


@pytest.mark.parametrize(
    ("rule", "new"), [("same_class", [1]), ("any_class", []), ("always", [0, 1])]
)
def test_new_object_rules(rule, new):
    segmented = torch.stack([_box(9, 20), _box(9, 20)])
    decision = decide_frame(
        _box(0, 10)[None],
        torch.tensor([3]),
        segmented,
        torch.tensor([3, 4]),
        torch.tensor([0.9, 0.8]),
        choose=lambda a, b: torch.ones(len(a), dtype=torch.bool),
        rules=StageTwoRules(new_object_rule=rule),
    )
    assert decision.new == new


def test_many_objects_stop_at_the_limit():
    segmented = torch.stack([_box(2 * i, 2 * i + 2) for i in range(20)])
    decision = decide_frame(
        torch.zeros(0, 8, 40, dtype=torch.bool),
        torch.zeros(0, dtype=torch.int64),
        segmented,
        torch.zeros(20, dtype=torch.int64),
        torch.linspace(0.5, 0.9, 20),
        choose=lambda a, b: torch.ones(len(a), dtype=torch.bool),
    )
    assert decision.new == list(range(19, 4, -1))
    assert decision.label.max() == 15


def test_empty_detection_never_enters():
    decision = decide_frame(
        torch.zeros(0, 8, 40, dtype=torch.bool),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(1, 8, 40, dtype=torch.bool),
        torch.zeros(1, dtype=torch.int64),
        torch.ones(1),
        choose=lambda a, b: torch.ones(len(a), dtype=torch.bool),
    )
    assert decision.new == []


def test_duplicates():
    masks = torch.stack([_box(0, 10), _box(0, 9), _box(5, 15), _box(20, 30)])
    scores = torch.tensor([0.6, 0.9, 0.7, 0.5])
    assert drop_duplicates(masks, scores, 0.7) == [1, 2, 3]
    assert drop_duplicates(masks, scores, 0.99) == [1, 2, 0, 3]
    assert drop_duplicates(masks[:0], scores[:0], 0.7) == []


def test_class_and_score():
    assert class_and_score([(0, 2, 0.9), (1, 5, 0.6), (3, 5, 0.8)]) == (
        5,
        pytest.approx(1.4 / 3),
    )


def test_unknown_rule():
    with pytest.raises(InputError, match="NEW_OBJECT_RULE 'never'"):
        StageTwoRules(new_object_rule="never")


def test_nothing_waits_for_the_device():
    """Under FakeTensorMode a hidden ``.item()`` or ``nonzero`` raises."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from vis_projects.msn.association import admit
    from vis_projects.msn.chooser import MaskChooser
    from vis_projects.msn.human_object import pixels_near
    from vis_projects.msn.selection_network import PatchSelector

    with FakeTensorMode(), torch.no_grad():
        masks = torch.zeros(3, 20, 30, dtype=torch.bool)
        scores, rows, take = torch.rand(3), torch.arange(3), torch.ones(3, dtype=torch.bool)
        label = paint_selected(masks, masks, scores, rows, take)
        label, admitted = admit(label, masks, rows, rows, room=2, rules=StageTwoRules())
        chooser = MaskChooser(PatchSelector(width=4, layers=2).eval(), size=16, symmetric=True)
        better = chooser.probability(torch.rand(3, 20, 30), masks, masks)
        near = pixels_near(masks, masks)
    assert (label.shape, admitted.shape) == ((20, 30), (3,))
    assert (better.shape, near.shape) == ((3,), (3, 3))
