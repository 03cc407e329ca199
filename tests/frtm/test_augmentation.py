"""First-frame augmentation against recorded matrices, kernels and frequencies."""

from __future__ import annotations

import json
from ast import literal_eval
from collections import Counter

import fill
import numpy as np
import pytest

from vis_projects.frtm.augmentation import (
    Box,
    Warp,
    affine,
    augment,
    blur_kernel,
    draw_warps,
    fill_hole,
    grid_locations,
)


@pytest.fixture
def recorded(golden):
    return json.loads(golden("frtm/augment.json").read_text())


def test_matrices(recorded):
    h, w = recorded["affine"]["image_hw"]
    box = Box(*recorded["affine"]["bbox_cx_cy_w_h"])
    for case in recorded["affine"]["cases"]:
        spec = dict(case["spec"])
        spec["mirror"], spec["skew"] = spec.pop("fliplr"), spec["skew"][0]
        spec["location"] = tuple(spec["location"])
        got = affine(Warp(**spec), box, (w, h), limit=True)
        assert np.abs(got - case["matrix"]).max() < 1e-9
    got = affine(Warp(scale=1.2), Box(w / 2, h / 2, w, h), (w, h), limit=False)
    assert np.abs(got - recorded["affine"]["background_scale_1_2"]).max() < 1e-9


def test_kernels(recorded):
    for name, kernel in recorded["blur_kernels"].items():
        size, angle = (*map(float, name.split("@")), 0.0)[:2]
        assert np.abs(blur_kernel(size, angle) - kernel).max() < 1e-6
    for name, shape in recorded["blur_kernel_sizes"].items():
        assert list(blur_kernel(float(name), 30).shape) == shape


def test_frequencies(recorded):
    rng = np.random.default_rng(0)
    size = recorded["affine"]["image_hw"]
    drawn = [pair for _ in range(4000) for pair in draw_warps(4, size, rng)]
    names = {"rotation": "rotation", "fliplr": "mirror", "scale": "scale", "skew": "skew",
             "blur_size": "blur", "blur_angle": "blur_angle"}  # fmt: skip
    for index, key in enumerate(("fg_frequencies", "bg_frequencies")):
        for name, wanted in recorded[key].items():
            if name not in names:
                continue
            counts = Counter(getattr(pair[index], names[name]) for pair in drawn)
            for text, frequency in wanted.items():
                value = literal_eval(text)
                value = value[0] if isinstance(value, tuple) else value
                assert counts[value] / len(drawn) == pytest.approx(frequency, abs=0.02), name


def test_locations(recorded):
    rng = np.random.default_rng(0)
    size = recorded["affine"]["image_hw"]
    points = np.array([grid_locations(5, size, rng) for _ in range(2000)]).reshape(-1, 2)
    wanted = recorded["location"]
    assert np.abs(points.mean(0) - wanted["mean"]).max() < 0.02
    assert np.abs(points.std(0) - wanted["std"]).max() < 0.02
    assert np.abs(points.min(0) - wanted["min"]).max() < 0.05
    assert (points == np.round(points, 3)).all()


@pytest.mark.parametrize("mode", ["telea", "grey"])
def test_samples(recorded, mode):
    h, w = recorded["affine"]["image_hw"]
    x, y, width, height = map(int, recorded["affine"]["bbox_cx_cy_w_h"])
    top, left = y - height // 2, x - width // 2
    image = fill.frames(3, 1, h, w)[0]
    mask = np.zeros((h, w), bool)
    mask[top : top + height, left : left + width] = True
    areas = []
    for seed in range(40):
        images, masks = augment(image, mask, 5, rng=np.random.default_rng(seed), fill=mode)
        assert images.shape == (5, h, w, 3) and images.dtype == np.uint8
        assert masks.shape == (5, h, w) and masks.dtype == bool
        assert (images[0] == image).all() and (masks[0] == mask).all()
        areas += masks[1:].mean((1, 2)).tolist()
    assert np.mean(areas) == pytest.approx(
        recorded["mask_area_fraction"]["mean_of_augmented"], abs=0.02
    )
    again, _ = augment(image, mask, 5, rng=np.random.default_rng(39), fill=mode)
    assert (again == images).all()
    hole = fill_hole(image, mask, mode)
    assert (hole[mask] != image[mask]).any() and (hole[: top - 1] == image[: top - 1]).all()


def test_extreme_masks():
    image = fill.frames(3, 1, 40, 60)[0]
    rng = np.random.default_rng(0)
    full = np.ones((40, 60), bool)
    images, masks = augment(image, full, 5, rng=rng)
    assert len(images) == 5 and masks.any((1, 2)).all()
    speck = np.zeros((40, 60), bool)
    speck[0, 0] = True
    images, masks = augment(image, speck, 5, rng=rng)
    assert len(images) == 5 and masks.any((1, 2)).all()
    nearly = full.copy()
    nearly[0, 0] = False
    assert len(augment(image, nearly, 5, rng=rng)[0]) == 5
    with pytest.raises(ValueError, match="no pixel"):
        augment(image, ~full, 5, rng=rng)
    with pytest.raises(ValueError, match="telea"):
        augment(image, full, 5, rng=rng, fill="black")
