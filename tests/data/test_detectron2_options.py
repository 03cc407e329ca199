"""Detectron2's input options change the training items, or are refused; none is ignored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from vis_projects import get_cfg
from vis_projects.data import build_clip_dataset, build_test_loader
from vis_projects.structures import InputError

SIZE, SCALE = (40, 60), 4
STAR = [3, 20, 25, 17, 30, 2, 35, 17, 57, 20, 35, 23, 30, 38, 25, 23]


@pytest.fixture
def name(tmp_path: Path) -> str:
    """Four stills: a star of class 1 in each, one of class 2 in the last."""
    (tmp_path / "images").mkdir()
    images, annotations = [], []
    for k in range(4):
        ramp = np.tile(np.arange(60, dtype=np.uint8) * 4, (40, 1))
        Image.fromarray(np.stack([ramp] * 3, -1)).save(tmp_path / f"images/{k}.png")
        images.append({"id": k + 1, "file_name": f"{k}.png", "height": 40, "width": 60})
        for category in (1, 2) if k == 3 else (1,):
            annotations.append({"id": len(annotations) + 1, "image_id": k + 1, "iscrowd": 0,
                                "category_id": category, "segmentation": [STAR], "area": 500,
                                "bbox": [3, 2, 54, 36]})  # fmt: skip
    categories = [{"id": i, "name": f"c{i}"} for i in (1, 2)]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "a.json").write_text(json.dumps(data))
    return f"own_stills:{tmp_path}/a.json:{tmp_path}/images"


def dataset(name: str, *options: object):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), (name,)
    cfg.INPUT.SAMPLER.NAME = "still"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (SIZE[0] * SCALE,), 1000
    cfg.merge_from_list(list(options))
    return build_clip_dataset(cfg)


def drawn(flip: bool) -> np.ndarray:
    points = np.array(STAR, float).reshape(-1, 2)
    if flip:
        points[:, 0] = SIZE[1] - points[:, 0]
    height, width = (n * SCALE for n in SIZE)
    runs = mask_util.frPyObjects([(points * SCALE).ravel().tolist()], height, width)
    return mask_util.decode(mask_util.merge(runs)).astype(bool)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_outlines_are_drawn_after_scaling(name: str, flip: float) -> None:
    """AdelaiDet and Detectron2 scale the polygon; a mask that is scaled has steps."""
    item = dataset(name, "INPUT.AUGMENTATIONS.FLIP_PROB", flip)[0]
    assert np.array_equal(item["instances"].gt_masks.tensor[0].numpy(), drawn(bool(flip)))
    item = dataset(name, "INPUT.AUGMENTATIONS.FLIP_PROB", flip, "INPUT.MASK_FORMAT", "bitmask")[0]
    mask = item["instances"].gt_masks.tensor[0].numpy()
    blocks = mask.reshape(SIZE[0], SCALE, SIZE[1], SCALE)
    assert (blocks.all((1, 3)) == blocks.any((1, 3))).all()
    assert not np.array_equal(mask, drawn(bool(flip)))


def test_outlines_end_where_something_else_moves_pixels(name: str) -> None:
    options = ("INPUT.AUGMENTATIONS.FLIP_PROB", 0.0, "INPUT.AUGMENTATIONS.CROP.SIZE", (64, 96))
    item = dataset(name, *options)[0]
    mask = item["instances"].gt_masks.tensor[0].numpy()
    assert mask.shape == (64, 96)
    whole = drawn(False)
    found = [
        np.array_equal(mask, whole[y : y + 64, x : x + 96])
        for y in range(whole.shape[0] - 63)
        for x in range(whole.shape[1] - 95)
    ]
    assert any(found)


def test_no_random_flip(name: str) -> None:
    plain = dataset(name, "INPUT.RANDOM_FLIP", "none", "INPUT.AUGMENTATIONS.FLIP_PROB", 1.0)
    assert all(plain[k]["image"][0, 80, 4] < plain[k]["image"][0, 80, -4] for k in range(8))
    flipped = dataset(name, "INPUT.AUGMENTATIONS.FLIP_PROB", 1.0)
    assert all(flipped[k]["image"][0, 80, 4] > flipped[k]["image"][0, 80, -4] for k in range(8))


def test_repeat_factor_sampler_is_ours(name: str) -> None:
    options = ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler")
    mapped = dataset(name, *options, "DATALOADER.REPEAT_THRESHOLD", 4.0)
    ours = dataset(name, "INPUT.SAMPLER.BALANCE", "repeat_factor",
                   "INPUT.SAMPLER.BALANCE_THRESHOLD", 4.0)  # fmt: skip
    keys = [mapped.locate(k) for k in range(200)]
    assert keys == [ours.locate(k) for k in range(200)]
    share = np.mean([key == 3 for _, key in keys])
    assert share > 0.35  # a quarter without it


REFUSED = [
    ("INPUT.RANDOM_FLIP", "vertical", "left to right only"),
    ("INPUT.CROP.ENABLED", True, "AUGMENTATIONS.CROP.SIZE"),
    ("INPUT.MASK_FORMAT", "rle", "polygon or bitmask"),
    ("DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler", "is not supported"),
    ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "needs a REPEAT_THRESHOLD"),
    ("DATALOADER.FILTER_EMPTY_ANNOTATIONS", False, "never key frames"),
    ("MODEL.KEYPOINT_ON", True, "no system learns key points"),
]


@pytest.mark.parametrize("key, value, words", REFUSED)
def test_what_has_no_counterpart_is_refused(name: str, key: str, value, words: str) -> None:
    with pytest.raises(InputError, match=f"{key.rsplit('.', 1)[0]}.*{words}"):
        dataset(name, key, value)


def test_test_time_augmentation_is_refused(name: str) -> None:
    cfg = get_cfg()
    cfg.TEST.AUG.ENABLED = True
    with pytest.raises(InputError, match=r"TEST\.AUG\.ENABLED"):
        build_test_loader(cfg, name)
