"""Frame samplers and the order of samples against slow, obvious versions."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from vis_projects import get_cfg
from vis_projects.data import (
    FRAME_SAMPLER_REGISTRY,
    BatchOrder,
    WeightedMix,
    build_frame_sampler,
    load_videos,
    repeat_factors,
)
from vis_projects.data.clips.frame_samplers import (
    ClipSampler,
    ConsecutiveSampler,
    CoveringPairSampler,
    PairSampler,
    ReferenceAndValidationSampler,
)
from vis_projects.data.clips.sampling_order import EpochOrder, RepeatFactorOrder, UniformClassOrder
from vis_projects.structures import InputError


def video(presence: list[str], classes: dict[int, int] | None = None, *, size: int = 8) -> dict:
    """Make a video of one string of object digits per frame; digits after "c" are crowds."""
    ids = sorted({int(c) for row in presence for c in row.split("c")[0]})
    classes = classes or dict.fromkeys(ids, 0)

    def annotation(i: str, crowd: int) -> dict:
        return {"id": int(i), "category_id": classes.get(int(i), 0), "bbox": [1, 1, 4, 4],
                "bbox_mode": 0, "segmentation": np.ones((size, size), np.uint8),
                "iscrowd": crowd, "area": 9}  # fmt: skip

    rows = []
    for row in presence:
        plain, _, crowds = row.partition("c")
        rows.append([annotation(i, 0) for i in plain] + [annotation(i, 1) for i in crowds])
    return {
        "video_id": 1, "name": "v", "height": size, "width": size, "length": len(presence),
        "objects": [{"id": i, "category_id": classes[i]} for i in ids], "annotations": rows,
    }  # fmt: skip


def drawn(sampler, key: int, count: int = 300) -> set[tuple[int, ...]]:
    rng = np.random.default_rng(0)
    return {sampler.sample(key, rng).frames for _ in range(count)}


def test_pairs_stay_within_the_region_and_skip_empty_frames():
    frames = ["1", "", "1", "1c2", "c2", "1"]
    sampler = PairSampler([video(frames)], frame_range=2)
    assert [tuple(k) for k in sampler.keys] == [(0, 0), (0, 2), (0, 3), (0, 5)]
    assert drawn(sampler, 0) == {(0, 2)}
    assert drawn(sampler, 2) == {(3, 2), (3, 5)}
    whole = PairSampler([video(frames)], frame_range=0)
    assert drawn(whole, 0) == {(0, 2), (0, 3), (0, 5)}
    alone = PairSampler([video(["1"])])
    assert drawn(alone, 0) == {(0, 0)}


def test_guidance_frames_cover_the_classes_that_they_share():
    classes = {1: 0, 2: 0, 3: 1}
    presence = ["12", "1", "12", "3", "123", "13", ""]
    sampler = CoveringPairSampler([video(presence, classes)])

    def slow(q: int) -> list[int]:
        out = []
        for g in range(len(presence)):
            query, guide = set(map(int, presence[q])), set(map(int, presence[g]))
            shared = {classes[i] for i in query} & {classes[i] for i in guide}
            full = all(i in guide for i in query if classes[i] in shared)
            if g != q and query & guide and full:
                out.append(g)
        return out

    for q in range(6):
        assert list(sampler.covering(0, q)) == slow(q)
    assert drawn(CoveringPairSampler([video(["1", "2"], classes)]), 0) == {(0, 0)}
    near = CoveringPairSampler([video(presence, classes)], frame_range=2)
    assert list(near.covering(0, 0)) == [g for g in slow(0) if g <= 2] != slow(0)


def test_consecutive_frames_have_the_gaps_that_fit():
    sampler = ConsecutiveSampler([video(["1"] * 5), video(["1"])], max_gap=2)
    assert [tuple(k) for k in sampler.keys] == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 0)]
    assert drawn(sampler, 0) == {(0, 1)}
    assert drawn(sampler, 2) == {(1, 3), (2, 3)}
    assert drawn(sampler, 4) == {(0, 0)}


def test_reference_shows_its_object_and_validation_frames_differ():
    videos = load_videos("synthetic_vos_train:videos=3:length=8")
    sampler = ReferenceAndValidationSampler(videos, count=3, min_pixels=150, min_fraction=0.5)
    assert len(sampler) == sum(len(v["objects"]) for v in videos)
    rng = np.random.default_rng(0)
    for key in range(len(sampler)):
        item = sampler.sample(key, rng)
        assert len(set(item.frames)) == 3
        labels = videos[item.video]["annotations"].label_map(item.frames[0])
        areas = [(videos[item.video]["annotations"].label_map(t) == item.object_id).sum()
                 for t in range(8)]  # fmt: skip
        seen = (labels == item.object_id).sum()
        assert seen >= min(max(150, 0.5 * max(areas)), max(areas))


def test_videos_too_short_for_a_reference_and_its_frames_are_said(caplog):
    short, long = video(["1"] * 3), video(["1"] * 5)
    with pytest.raises(InputError, match=r"the longest has 3; set .*FRAMES and .* to 3 or less"):
        ReferenceAndValidationSampler([short, video(["1", ""])], min_length=4)
    with pytest.raises(InputError, match="the longest has 1; at least two"):
        ReferenceAndValidationSampler([video(["1"])], count=2, min_length=1)
    with pytest.raises(InputError, match="MIN_PIXELS 900.*lower it"):
        ReferenceAndValidationSampler([long], count=2, min_pixels=900, reference="first")
    with pytest.raises(InputError, match="no annotated frame"):
        ReferenceAndValidationSampler([video(["", ""])])
    assert len(ReferenceAndValidationSampler([short, long], count=4)) == 1
    assert "1 of 2 videos are left out: they have fewer than 4 annotated" in caplog.text


def test_the_reference_is_the_first_frame_that_shows_its_object():
    videos = load_videos("synthetic_vos_train:videos=3:length=8")
    sampler = ReferenceAndValidationSampler(videos, count=3, min_pixels=150, reference="first")
    rng = np.random.default_rng(0)
    for key in range(len(sampler)):
        draws = [sampler.sample(key, rng) for _ in range(6)]
        areas = [(videos[draws[0].video]["annotations"].label_map(t) == draws[0].object_id).sum()
                 for t in range(8)]  # fmt: skip
        assert {d.frames[0] for d in draws} == {next(t for t in range(8) if areas[t] >= 150)}
        assert len({d.frames[1:] for d in draws}) > 1
    with pytest.raises(InputError, match="REFERENCE 'last': use any or first"):
        ReferenceAndValidationSampler(videos, reference="last")


@pytest.mark.parametrize("length", [1, 2, 4, 9, 30])
def test_clips_run_one_way_and_stay_in_the_video(length):
    sampler = ClipSampler([video(["1"] * length)], count=5, max_gap=3)
    rng = np.random.default_rng(1)
    directions = set()
    for key in range(length):
        for _ in range(50):
            frames = sampler.sample(key, rng).frames
            steps = np.diff(frames)
            assert len(frames) == 5 and frames[0] == key
            assert min(frames) >= 0 and max(frames) < length
            assert (steps >= 0).all() or (steps <= 0).all()
            assert np.abs(steps[1:]).max() <= 3
            if length == 30 and 10 < key < 20:
                assert (np.abs(steps) > 0).all()
                directions.add(np.sign(steps[0]))
    assert length < 30 or directions == {-1, 1}


@pytest.mark.parametrize("name", sorted(FRAME_SAMPLER_REGISTRY))
def test_every_sampler_draws_valid_frames(name):
    cfg = get_cfg()
    cfg.INPUT.SAMPLER.NAME, cfg.INPUT.SAMPLER.FRAMES = name, 3
    videos = load_videos("synthetic_train:videos=3:length=6")
    sampler = build_frame_sampler(cfg, videos)
    for key in range(len(sampler)):
        item = sampler.sample(key, np.random.default_rng(key))
        again = sampler.sample(key, np.random.default_rng(key))
        assert item == again
        assert all(0 <= t < 6 for t in item.frames)
        assert sampler.classes(key) and sampler.wide(key)


def test_unknown_samplers_and_empty_sets_are_explained():
    cfg = get_cfg()
    cfg.INPUT.SAMPLER.NAME = "pairs"
    with pytest.raises(InputError, match="covering_pair"):
        build_frame_sampler(cfg, load_videos("synthetic_train:videos=1"))
    with pytest.raises(InputError, match="no annotated frame"):
        PairSampler([video(["", ""])])


# Order -----------------------------------------------------------------------------------------


def test_an_epoch_has_every_key_once_in_a_new_order():
    order = EpochOrder(7, seed=3)
    epochs = [[order(e * 7 + k) for k in range(7)] for e in range(4)]
    assert all(sorted(e) == list(range(7)) for e in epochs)
    assert epochs[0] != epochs[1]
    assert [EpochOrder(7, seed=3)(k) for k in (20, 3)] == [epochs[2][6], epochs[0][3]]


def test_repeat_factors_follow_their_formula():
    classes = [{0}] * 8 + [{0, 1}, {2}, set()]
    factors = repeat_factors(classes, threshold=0.5)
    for present, factor in zip(classes, factors):
        share = {c: sum(c in p for p in classes) / len(classes) for c in present}
        assert factor == max([1.0, *((0.5 / s) ** 0.5 for s in share.values())])
    order = RepeatFactorOrder(np.array([1.0, 2.5, 1.0]), seed=0)
    counts = Counter(order(k) for k in range(9000))
    assert abs(counts[1] / counts[0] - 2.5) < 0.1
    fresh = RepeatFactorOrder(np.array([1.0, 2.5, 1.0]), seed=0)
    assert [fresh(k) for k in (800, 3, 801)] == [order(k) for k in (800, 3, 801)]


def test_uniform_classes():
    order = UniformClassOrder([{0}] * 90 + [{1}] * 9 + [set()], seed=0)
    keys = [order(k) for k in range(2000)]
    assert 99 not in keys
    assert abs(np.mean([k < 90 for k in keys]) - 0.5) < 0.05


def test_mixing_shares_are_exact_and_every_key_of_a_set_is_visited():
    weights = [0.35, 0.30, 0.25, 0.10]
    mix = WeightedMix(weights, seed=1)
    draws = [mix(k) for k in range(20_000)]
    for d, weight in enumerate(weights):
        positions = [p for s, p in draws if s == d]
        assert len(positions) == round(weight * 20_000)
        assert positions == list(range(len(positions)))
    assert WeightedMix(weights, seed=1)(15_000) == draws[15_000]
    other = WeightedMix(weights, seed=2)
    assert draws[:100] != [other(k) for k in range(100)]
    for bad in ([], [1, 0], [1, -1], [float("nan")]):
        with pytest.raises(InputError, match="weights"):
            WeightedMix(bad, seed=0)


def take(order: BatchOrder, count: int) -> list[list[int]]:
    return [batch for batch, _ in zip(order, range(count))]


def test_batches_are_grouped_by_orientation_and_resumable():
    def wide(draw: int) -> bool:
        return draw % 3 > 0

    order = BatchOrder(4, seed=0, wide=wide)
    batches = take(order, 130)
    assert sorted(k for b in batches[:64] for k in b) == list(range(256))
    mixed = [b for b in batches[:128] if len({wide(k) for k in b}) > 1]
    assert len(mixed) <= 2
    for start in (4, 256, 300):
        resumed = BatchOrder(4, seed=0, wide=wide, start=start)
        assert take(resumed, 5) == batches[start // 4 : start // 4 + 5]


def test_ranks_share_each_batch():
    whole = take(BatchOrder(6, seed=0, wide=lambda k: k % 2 == 0), 20)
    parts = [
        take(BatchOrder(6, seed=0, wide=lambda k: k % 2 == 0, rank=r, world_size=3), 20)
        for r in range(3)
    ]
    assert [[k for p in parts for k in p[i]] for i in range(20)] == whole
    with pytest.raises(InputError, match="IMS_PER_BATCH"):
        BatchOrder(5, seed=0, world_size=2)
