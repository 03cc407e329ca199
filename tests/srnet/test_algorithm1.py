"""Algorithm 1 on the recorded scene, and its two forms against the sequential one."""

from __future__ import annotations

import json
from copy import copy

import numpy as np
import pytest
import torch
from recorded_ids import id_map, ids_of
from sequential_clustering import cluster_sequentially, random_maps
from torch._subclasses.fake_tensor import FakeTensorMode

from vis_projects.srnet.association import Association
from vis_projects.srnet.clustering import ClusterRules, cluster_on_device, owners_at
from vis_projects.srnet.compact_clustering import cluster_compact, owners_within
from vis_projects.srnet.head_maps import DenseMaps
from vis_projects.srnet.post_processing import PostProcessing
from vis_projects.srnet.spatial_grid import spatial_grid

LITERAL = {"min_area": 1, "min_free": 0.0}

# The recorded scene -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene(golden) -> tuple[dict, dict]:
    arrays = np.load(golden("srnet/algorithm1.npz"))
    return dict(arrays), json.loads(golden("srnet/algorithm1.json").read_text())


def maps_of(arrays: dict, t: int) -> DenseMaps:
    def get(name: str) -> torch.Tensor:
        return torch.from_numpy(arrays[name][t].astype(np.float32))

    return DenseMaps(
        get("offset"), get("sigma"), get("tracking"), get("objectness"), get("category")
    )


@pytest.mark.parametrize("compact", [True, False])
def test_recorded_scene(scene, compact):
    arrays, expected = scene
    process = PostProcessing(compact=compact)
    for t, frame in enumerate(expected["frames"]):
        maps = maps_of(arrays, t)
        out = process(maps)
        assert np.array_equal(id_map(out), arrays["labels"][t]), t
        assert np.abs(out.heat_map[0].numpy() - arrays["heatmap"][t]).max() < 1e-6
        live = out.clusters.live
        width = arrays["labels"].shape[-1]
        tried = [[c // width, c % width] for c in out.clusters.cells[live].tolist()]
        accepted = (out.clusters.row_of_seed[:-1][live] >= 0).int().tolist()
        assert [[*cell, a] for cell, a in zip(tried, accepted)] == frame["tried"]
        found, present = out.detections, out.detections.present
        assert ids_of(out) == [i["id"] for i in frame["instances"]]

        def check(
            value: torch.Tensor, key: str, tolerance: float, frame=frame, present=present
        ) -> None:
            wanted = np.array([i[key] for i in frame["instances"]])
            assert np.abs(value[present].double().numpy() - wanted).max() < tolerance, key

        check(found.scores, "score", 1e-6)
        check(found.shape.area, "area", 0.5)
        check(found.shape.box, "box", 0.5)
        check(found.shape.mean, "mean_px", 1e-4)
        check(found.centre, "centre", 1e-4)
        check(found.tracking, "tracking", 1e-4)
        check(found.box_area, "box_area", 1e-4)
        check(found.category_sums, "cat_sum", 1e-4)

        if not compact and t % 4:
            continue  # 64 seeds at full size take their time on a CPU
        size = arrays["full_labels"].shape[1:]
        full = process.full_size(maps, out.clusters, size, size)
        labels = torch.zeros(size, dtype=torch.int64)
        for i, mask in zip(found.ids.tolist(), full):
            labels[mask] = i
        sure = np.unpackbits(arrays["full_unsure"][t], axis=-1)[:, : size[1]] == 0
        assert np.array_equal(labels.numpy()[sure], arrays["full_labels"][t][sure])


VARIANTS = {
    "default": ({}, {}, {}),
    "gate_none": ({}, {"gate": "none"}, {}),
    "snap": ({}, {}, {"centre": "snap"}),
    "greedy_score": ({}, {"greedy": "score"}, {}),
    "gate_none_greedy_score": ({}, {"gate": "none", "greedy": "score"}, {}),
    "max_instances_2": ({"max_instances": 2}, {}, {}),
    "literal": (LITERAL, {"gate": "none"}, {}),
}


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_recorded_ids(scene, variant, compact):
    arrays, expected = scene
    rules, linking, options = VARIANTS[variant]
    process = PostProcessing(
        ClusterRules(**rules), Association(**linking), compact=compact, **options
    )
    for t, ids in enumerate(expected["ids"][variant]):
        out = process(maps_of(arrays, t))
        assert ids_of(out) == ids
        if f"labels_{variant}" in arrays:
            assert np.array_equal(id_map(out), arrays[f"labels_{variant}"][t])
        if variant == "snap":
            present = out.detections.present
            for key, value in (
                ("centre", out.detections.centre[present]),
                ("tracking", out.detections.tracking[present]),
            ):
                wanted = [i[f"{key}_snap"] for i in expected["frames"][t]["instances"]]
                assert np.abs(value.numpy() - np.array(wanted)).max() < 1e-4


# The forms agree ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, LITERAL, {"max_instances": 2}, {"max_seeds": 5}, {"mask_threshold": 0.3}],
    ids=str,
)
def test_forms_agree(options):
    rules = ClusterRules(**options)
    for seed in range(12):
        maps = random_maps(seed)
        arguments = (maps.embedding, maps.objectness, maps.sigma_at, maps.valid, rules)
        slow = cluster_sequentially(maps, rules)
        labels = slow.labels((24, 36))
        for form in (cluster_on_device, cluster_compact):
            fast = form(*arguments)
            assert torch.equal(fast.labels, labels)
            assert fast.scores[fast.present].tolist() == slow.scores
            assert fast.cells[fast.rows][fast.present].tolist() == slow.seeds
            tried = fast.cells[fast.live].tolist()[: len(slow.tried)]
            assert tried == [cell for cell, _ in slow.tried]


def test_owners_agree_at_full_size():
    rules = ClusterRules()
    for seed in range(4):
        maps = random_maps(seed)
        arguments = (maps.embedding, maps.objectness, maps.sigma_at, maps.valid, rules)
        fine = torch.nn.functional.interpolate(maps.embedding[None], (90, 150), mode="bilinear")[0]
        one = owners_within(fine, cluster_compact(*arguments), rules)
        two = owners_at(fine, cluster_on_device(*arguments), rules, chunk=7)
        assert torch.equal(one, two)


def within(maps: DenseMaps, valid: torch.Tensor) -> DenseMaps:
    other = copy(maps)
    other.valid = valid
    return other


def test_masks_keep_to_cells_with_enough_objectness():
    rules = ClusterRules(mask_objectness=0.6)
    for seed in range(4):
        maps = random_maps(seed)
        size = (96, 144)
        forms = []
        for compact in (True, False):
            process = PostProcessing(rules, compact=compact)
            out = process(maps)
            forms.append((out, process.full_size(maps, out.clusters, size, size)))
        (one, fine), (two, other) = forms
        present = two.detections.present
        assert torch.equal(one.clusters.labels, two.clusters.labels)
        assert torch.equal(fine, other[present])
        enough = maps.valid & (maps.objectness > 0.6)
        slow = cluster_sequentially(within(maps, enough), rules)
        assert torch.equal(one.clusters.labels, slow.labels((24, 36)))
        assert not (one.clusters.labels >= 0)[~enough].any()
        loose = PostProcessing(compact=False)
        everything = loose(maps)
        assert (everything.clusters.labels >= 0)[~enough].any()
        large = torch.nn.functional.interpolate(maps.objectness[None, None], size, mode="bilinear")[
            0, 0
        ]
        assert fine.any() and not fine.any(0)[large <= 0.6].any()


def test_best_cell_outside_the_image():
    maps = random_maps(3, blobs=2)
    maps.valid[:, 20:] = False
    maps.objectness[5, 25] = 1.0
    rules = ClusterRules(**LITERAL)
    expected = cluster_sequentially(maps, rules)
    assert expected.tried
    arguments = (maps.embedding, maps.objectness, maps.sigma_at, maps.valid, rules)
    for form in (cluster_on_device, cluster_compact):
        assert torch.equal(form(*arguments).labels, expected.labels((24, 36)))


def test_no_cell_above_the_threshold_and_one_cell():
    maps = random_maps(0)
    for compact in (True, False):
        process = PostProcessing(ClusterRules(min_score=1.0), compact=compact)
        out = process(maps)
        assert not out.detections.present.any() and out.heat_map.sum() == 0
        masks = process.full_size(maps, out.clusters, (96, 144), (96, 144))
        assert not masks.any()
    single = torch.zeros((8, 8))
    single[3, 5] = 0.9
    far = torch.ones((4, 8, 8))
    far[:, 3, 5] = 0
    maps = DenseMaps(far, torch.full((2, 8, 8), 0.01), torch.zeros((2, 8, 8)), single)
    assert not PostProcessing()(maps).detections.present.any()
    out = PostProcessing(ClusterRules(**LITERAL))(maps)
    assert out.detections.shape.mean.tolist() == [[5.0, 3.0]]
    assert out.heat_map[0, 3, 5] == 1


def test_object_that_fills_the_frame():
    still = DenseMaps(
        torch.zeros((4, 8, 8)),
        torch.full((2, 8, 8), 6.0),
        torch.zeros((2, 8, 8)),
        torch.full((8, 8), 0.9),
    )
    for compact in (True, False):
        out = PostProcessing(compact=compact)(still)
        assert out.detections.shape.area[out.detections.present].tolist() == [64]


def test_thirty_objects_keep_at_most_max_instances():
    h, w = 40, 96
    grid = spatial_grid(h, w)
    offset = torch.zeros((4, h, w))
    objectness = torch.zeros((h, w))
    for k in range(30):
        y, x = 8 * (k // 6), 16 * (k % 6)
        rows, columns = slice(y + 1, y + 7), slice(x + 2, x + 12)
        objectness[rows, columns] = 0.6 + 0.01 * k
        centre = grid[:, y + 3, x + 7]
        offset[:2, rows, columns] = centre[:, None, None] - grid[:, rows, columns]
    maps = DenseMaps(offset, torch.full((2, h, w), 0.02), torch.zeros((2, h, w)), objectness)
    for compact in (True, False):
        rules = ClusterRules(max_seeds=200)
        out = PostProcessing(rules, compact=compact)(maps)
        assert ids_of(out) == list(range(1, 21))
        out = PostProcessing(ClusterRules(max_seeds=200, max_instances=40), compact=compact)(maps)
        assert len(ids_of(out)) >= 30


def test_device_path_traces_without_values():
    """Under FakeTensorMode any hidden .item() or nonzero raises."""
    with FakeTensorMode():
        h, w = 24, 36
        maps = DenseMaps(
            torch.randn(4, h, w),
            torch.rand(2, h, w),
            torch.randn(2, h, w),
            torch.rand(h, w),
            torch.randn(5, h, w),
        )
        for options in ({}, {"centre": "snap", "output": "stride"}):
            for linking in (
                {},
                {"gate": "distance", "greedy": "score", "same_class": True, "max_age": 2},
            ):
                process = PostProcessing(
                    ClusterRules(max_seeds=3),
                    Association(**linking),
                    compact=False,
                    **options,
                )
                for _ in range(2):
                    out = process(maps)
                masks = process.full_size(maps, out.clusters, (96, 140), (90, 150))
                assert masks.shape == (20, 90, 150)
