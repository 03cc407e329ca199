"""Balanced sampling over several data sets: what is rare is rare among all of them together."""

from __future__ import annotations

import numpy as np
import pytest

from vis_projects.data.clips.sampling_order import repeat_factors
from vis_projects.data.train_loader import ClipDataset

COMMON, ALL = 10, 40


class Sampler:
    """Keys with one class each, drawn from the first ``classes``."""

    flat = False

    def __init__(self, count: int, classes: int, seed: int) -> None:
        drawn = np.random.default_rng(seed).integers(0, classes, count)
        self.keys = [{int(c)} for c in drawn]

    def __len__(self) -> int:
        return len(self.keys)

    def classes(self, key: int) -> set[int]:
        return self.keys[key]


@pytest.fixture(scope="module")
def samplers() -> list[Sampler]:
    """Nine tenths of the keys show ten common classes alone, as COCO beside YouTube-VIS."""
    return [Sampler(9000, COMMON, 0), Sampler(1000, ALL, 1)]


def dataset(samplers, balance: str, **more) -> ClipDataset:
    return ClipDataset(["a", "b"], [[], []], samplers, mapper=None, balance=balance, **more)


def drawn(data: ClipDataset, count: int = 8000) -> tuple[np.ndarray, np.ndarray]:
    """The set and the class of each of some samples."""
    places = [data.locate(i) for i in range(count)]
    classes = [next(iter(data.samplers[d].classes(k))) for d, k in places]
    return np.array([d for d, _ in places]), np.array(classes)


def test_rare_classes_gain_against_other_sets(samplers):
    _, uniform = drawn(dataset(samplers, "uniform"))
    _, balanced = drawn(dataset(samplers, "repeat_factor"))
    assert (uniform >= COMMON).mean() == pytest.approx(0.075, abs=0.01)
    factors = repeat_factors([c for s in samplers for c in s.keys], threshold=0.025)
    rare = np.array([max(c) >= COMMON for s in samplers for c in s.keys])
    assert factors[~rare].max() == 1 and factors[rare].min() > 2
    expected = (factors * rare).sum() / factors.sum()  # the spec's formula: about a fifth
    assert 0.17 < expected < 0.22
    assert (balanced >= COMMON).mean() == pytest.approx(expected, abs=0.015)


def test_shares_follow_from_the_repeated_keys_or_are_given(samplers):
    sets, _ = drawn(dataset(samplers, "repeat_factor"))
    factors = repeat_factors([c for s in samplers for c in s.keys], threshold=0.025)
    assert (sets == 1).mean() == pytest.approx(factors[9000:].sum() / factors.sum(), abs=0.015)
    sets, classes = drawn(dataset(samplers, "repeat_factor", weights=(0.5, 0.5)))
    assert (sets == 1).mean() == pytest.approx(0.5, abs=0.005)
    within = factors[9000:]
    rare = np.array([max(c) >= COMMON for c in samplers[1].keys])
    expected = (within * rare).sum() / within.sum()
    assert (classes[sets == 1] >= COMMON).mean() == pytest.approx(expected, abs=0.03)


def test_uniform_class_is_uniform_over_all_sets(samplers):
    _, classes = drawn(dataset(samplers, "uniform_class"))
    shares = np.bincount(classes, minlength=ALL) / len(classes)
    assert shares.min() > 0.015 and shares.max() < 0.035  # 1/40 each


def test_every_key_comes_in_an_epoch(samplers):
    data = dataset(samplers, "repeat_factor")
    seen = {data.locate(i) for i in range(13_000)}
    assert len(seen) == 10_000
