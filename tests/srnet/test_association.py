"""Who is who from frame to frame: pairs, gates, classes and memory."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from recorded_ids import ids_of
from sequential_clustering import random_maps

from vis_projects.srnet.association import (
    Association,
    BoxAssociation,
    CentreAssociation,
    TrackMemory,
    greedy_by_score,
    greedy_global,
    pair_costs,
)
from vis_projects.srnet.head_maps import DenseMaps
from vis_projects.srnet.instances import Detections, MaskShape, describe
from vis_projects.srnet.post_processing import PostProcessing
from vis_projects.structures import InputError


def test_recorded_pairs(golden):
    for case in json.loads(golden("srnet/greedy.json").read_text()):
        previous = torch.tensor(case["prev_centre"]).reshape(-1, 2)
        tracking = torch.tensor(case["cur_tracking"]).reshape(-1, 2)
        areas = torch.tensor(case["prev_box_area"]), torch.tensor(case["cur_box_area"])
        for name, pairs in case["pairs"].items():
            gate, order = name.split("_")
            cost = pair_costs(previous, tracking, *areas, gate=gate)
            match = (greedy_global if order == "global" else greedy_by_score)(cost)
            found = [[i, j] for j, i in enumerate(match.tolist()) if i >= 0]
            assert sorted(found) == sorted(pairs), name


def test_ties_go_to_the_smaller_column_then_row():
    assert greedy_global(torch.ones(2, 3)).tolist() == [0, 1, -1]
    assert greedy_by_score(torch.ones(2, 3)).tolist() == [0, 1, -1]
    assert greedy_global(torch.full((2, 2), torch.inf)).tolist() == [-1, -1]
    assert greedy_global(torch.zeros((0, 2))).tolist() == [-1, -1]


@pytest.mark.parametrize("compact", [True, False])
def test_max_age(compact):
    """A track that is missing for one frame comes back under its id only if MAX_AGE allows."""
    maps, nothing = random_maps(3), random_maps(3)
    maps.tracking.zero_()
    nothing.objectness.zero_()
    for max_age, same in ((0, False), (1, True), (3, True)):
        process = PostProcessing(association=Association(max_age=max_age), compact=compact)
        first = ids_of(process(maps))
        assert first and ids_of(process(nothing)) == []
        assert (ids_of(process(maps)) == first) is same
    process = PostProcessing(association=Association(max_age=1), compact=compact)
    first = ids_of(process(maps))
    for _ in range(2):
        process(nothing)
    assert not set(ids_of(process(maps))) & set(first)


def found_at(centres, tracking, classes) -> Detections:
    """Instances with boxes of 2 x 2 cells at a cell per grid unit."""
    centres, tracking = torch.tensor(centres), torch.tensor(tracking)
    n = len(centres)
    corner = centres.round().long()
    box = torch.cat([corner, corner + 1], 1)
    return Detections(
        present=torch.ones(n, dtype=torch.bool),
        scores=torch.ones(n),
        shape=MaskShape(torch.full((n,), 4.0), centres.double(), box),
        point=centres,
        centre=centres,
        tracking=tracking,
        box_area=torch.full((n,), 4.0),
        category_sums=torch.nn.functional.one_hot(torch.tensor(classes), 3).float(),
    )


LINKS = {
    "tracking": Association,
    "centre": CentreAssociation,
    "box IoU": partial(BoxAssociation, min_iou=0.1),
}


def test_class_of_a_detection():
    found = found_at([[0.0, 0.0], [9.0, 0.0]], [[0.0, 0.0], [9.0, 0.0]], [2, 1])
    assert found.classes.tolist() == [2, 1]
    assert replace(found, category_sums=None).classes.tolist() == [0, 0]


def linked(name: str, *frames: Detections, **options) -> list[list[int]]:
    association, memory, ids = LINKS[name](**options), TrackMemory.empty(), []
    for found in frames:
        given, memory = association(memory, found)
        ids.append(given.tolist())
    return ids


def test_links_look_at_vectors_centres_or_boxes():
    """Two instances stand still while their vectors claim that they changed places."""
    before = found_at([[0.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]], [0, 0])
    after = found_at([[0.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]], [0, 0])
    assert linked("tracking", before, after) == [[1, 2], [2, 1]]
    assert linked("centre", before, after) == [[1, 2], [1, 2]]
    assert linked("box IoU", before, after) == [[1, 2], [1, 2]]


def test_gates():
    """Boxes of area 4 reach 2, the distance gate 0.75 unless told otherwise, no gate anywhere."""
    before = found_at([[0.0, 0.0]], [[0.0, 0.0]], [0])
    for options, reach in (
        ({"gate": "box"}, 2.0),
        ({"gate": "distance"}, 0.75),
        ({"gate": "distance", "reach": 5.0}, 5.0),
        ({"gate": "none"}, 1e6),
    ):
        for distance, same in ((0.999 * reach, True), (1.001 * reach, options["gate"] == "none")):
            after = found_at([[9.0, 9.0]], [[distance, 0.0]], [0])
            assert linked("tracking", before, after, **options) == [[1], [1 if same else 2]]


@pytest.mark.parametrize("name", LINKS)
def test_same_class(name):
    """An instance of another class is a new one, and the old one waits for its like."""
    places = [[0.0, 0.0], [9.0, 0.0]]
    frames = [found_at(places, places, classes) for classes in ([0, 1], [2, 1], [0, 1])]
    assert linked(name, *frames) == [[1, 2], [1, 2], [1, 2]]
    assert linked(name, *frames, same_class=True) == [[1, 2], [3, 2], [4, 2]]
    assert linked(name, *frames, same_class=True, max_age=1) == [[1, 2], [3, 2], [1, 2]]


def test_unknown_choice_is_named():
    with pytest.raises(InputError, match="MODEL.SRNET.TEST.GATE 'circle' is unknown"):
        Association(gate="circle")
    with pytest.raises(InputError, match="MODEL.SRNET.TEST.OUTPUT"):
        PostProcessing(output="half")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"reach": 0.0}, "GATE_DISTANCE is 0.0: give a length"),
        ({"max_age": -1}, "MAX_AGE is -1: give 0 or more"),
    ],
)
def test_value_out_of_range_is_named(options, message):
    with pytest.raises(InputError, match=message):
        Association(**options)


def test_the_benchmark_of_vectors_judges_links():
    """Two objects that change places: zero vectors take the wrong one, true vectors the right."""
    from benchmarks.srnet_vectors import figures, right_links

    masks = torch.zeros((2, 12, 40), dtype=torch.bool)
    masks[0, 2:8, 4:10] = masks[1, 2:8, 20:26] = True
    blank = torch.zeros((2, 12, 40))

    def found(order: list[int], tracking: torch.Tensor) -> Detections:
        maps = DenseMaps(blank, blank + 1, tracking, blank[0])
        return describe(masks[order], torch.ones(2, dtype=torch.bool), torch.ones(2), maps)

    last, now = found([0, 1], blank), found([1, 0], blank)
    assert right_links(last, now) == [0, 0, 2]
    counts = np.array([2, 0.4, 0.1, 0.06, 0.1, 0.05, 0, 1, 2])
    measured = figures(counts)
    assert measured["slope"] == pytest.approx(0.6) and measured["motion"] == pytest.approx(0.2)
    assert measured["learned_minus_zero"] == pytest.approx(50)
