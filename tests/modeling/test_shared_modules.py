"""Preprocess, FeatureCache, mask overlaps, spooling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data.transforms import ResizeShortestEdge

from vis_projects.modeling import (
    FeatureCache,
    Preprocess,
    StageTimer,
    pairwise_mask_iou,
    seekable,
    shortest_edge,
    stage,
)
from vis_projects.structures import ArraySource, Frame, InputError, IterableSource


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(90, 160), (161, 73), (48, 300)])
def test_resize_equals_detectron2(size: tuple[int, int]) -> None:
    array = image(*size)
    wanted = ResizeShortestEdge(64, 120).get_transform(array).apply_image(array)
    preprocess = Preprocess([0] * 3, [1] * 3, size_rule=shortest_edge(64, 120))
    frame = Frame(torch.from_numpy(array).permute(2, 0, 1))
    assert np.array_equal(preprocess.resize(frame).permute(1, 2, 0).numpy(), wanted)


def test_normalise_then_pad_with_zeros() -> None:
    preprocess = Preprocess([10, 20, 30], [2, 2, 2], divisibility=32, network_format="RGB")
    batch = preprocess([Frame(torch.full((3, 20, 40), 50, dtype=torch.uint8))])
    assert batch.tensor.shape == (1, 3, 32, 64)
    assert batch.image_sizes == [(20, 40)]
    assert batch.tensor[0, :, 0, 0].tolist() == [20, 15, 10]
    assert not batch.tensor[..., 20:, :].any()


def test_colours_are_flipped_before_the_mean() -> None:
    pixel = torch.tensor([1, 2, 3], dtype=torch.uint8).view(3, 1, 1)
    preprocess = Preprocess([0, 0, 0], [1, 1, 1], frame_format="BGR", network_format="RGB")
    assert preprocess([Frame(pixel)]).tensor.flatten().tolist() == [3, 2, 1]


def test_resized_frames_are_left_alone() -> None:
    preprocess = Preprocess([0] * 3, [1] * 3, size_rule=shortest_edge(64, 120))
    frame = Frame(torch.rand(3, 30, 40), output_size=(300, 400))
    assert preprocess.resize(frame) is frame.image


@pytest.mark.parametrize("limit", [0, 0.0009, 1, float("inf")])
def test_cache_gives_the_same_at_any_limit(limit: float) -> None:
    cache = FeatureCache(limit)
    for t in [0, 1, 2, 0, 1, 3, 0]:
        value = cache.get(t, lambda t=t: {"p": torch.full((50,), float(t))})
        assert value["p"][0] == t
        assert cache.bytes <= limit * 1e6
    assert cache.hits + cache.misses == 7
    assert cache.misses == {0: 7, 0.0009: 4, 1: 4, float("inf"): 4}[limit]


def test_mask_iou_of_all_pairs() -> None:
    a = torch.rand(4, 9, 11) > 0.5
    b = torch.rand(3, 9, 11) > 0.5
    b[2] = a[1]
    wanted = [[(x & y).sum() / (x | y).sum() for y in b] for x in a]
    assert torch.allclose(pairwise_mask_iou(a, b), torch.tensor(wanted))
    empty = torch.zeros(1, 9, 11, dtype=torch.bool)
    assert pairwise_mask_iou(empty, empty).item() == 0


def test_streams_are_spooled_for_offline_systems() -> None:
    frames = np.stack([image(8, 10, s) for s in range(3)])
    with seekable(IterableSource(iter(frames)), 10) as source:
        assert np.array_equal(source[2].array(), frames[2])
        assert len(source) == 3
    array = ArraySource(frames)
    with seekable(array, 10) as source:
        assert source is array


def test_spool_has_a_limit() -> None:
    frames = (image(64, 64, s) for s in range(100))
    with (
        pytest.raises(InputError, match="SPOOL_LIMIT_MB"),
        seekable(IterableSource(frames), 0.02),
    ):
        pass


def test_stages_are_timed_only_when_asked() -> None:
    timer = StageTimer()
    with stage("a"):
        pass
    with timer.active(), stage("a"), stage("b"):
        pass
    assert set(timer.seconds()) == {"a", "b"}
