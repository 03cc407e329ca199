"""Balanced sampling over several data sets: what is rare is rare among all of them together."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from vis_projects import get_cfg
from vis_projects.data.clips.sampling_order import repeat_factors
from vis_projects.data.train_loader import ClipDataset, build_clip_dataset

COMMON, ALL = 10, 40
CATEGORIES = [{"id": 1, "name": "common"}, {"id": 2, "name": "rare"}]


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


def test_rare_classes_gain_in_what_a_config_loads(tmp_path):
    """From two jsons on disk: a class of the small set alone is drawn by its share of all images,
    not by the share of its set (MSN's detector, table 3)."""
    places = []
    for name, count in (("many", 36), ("few", 4)):
        images = [{"id": n, "file_name": f"{n}.png", "height": 8, "width": 8} for n in range(count)]
        rare = name == "few"
        annotations = [
            {"id": n + 1, "image_id": n, "category_id": 2 if rare and n == 0 else 1, "iscrowd": 0,
             "bbox": [0, 0, 4, 4], "area": 16, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]}
            for n in range(count)
        ]  # fmt: skip
        (tmp_path / name).mkdir()
        for image in images:
            Image.new("RGB", (8, 8)).save(tmp_path / name / image["file_name"])
        data = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
        places.append(f"own_stills:{tmp_path}/{name}.json:{tmp_path}/{name}")

    def share(balance: str) -> float:
        cfg = get_cfg()
        cfg.merge_from_list(["DATASETS.TRAIN", tuple(places), "INPUT.SAMPLER.NAME", "still"])
        cfg.merge_from_list(
            ["INPUT.SAMPLER.BALANCE", balance, "INPUT.SAMPLER.BALANCE_THRESHOLD", 0.4]
        )
        data = build_clip_dataset(cfg)
        drawn = [data.samplers[d].classes(k) for d, k in map(data.locate, range(1600))]
        return float(np.mean([1 in classes for classes in drawn]))

    assert share("uniform") == pytest.approx(1 / 40, abs=0.01)
    factor = (0.4 / (1 / 40)) ** 0.5  # of the one rare image; the others count once
    assert share("repeat_factor") == pytest.approx(factor / (factor + 39), abs=0.02)


def test_every_key_comes_in_an_epoch(samplers):
    data = dataset(samplers, "repeat_factor")
    seen = {data.locate(i) for i in range(13_000)}
    assert len(seen) == 10_000
