"""The training loader: reproducible, resumable, indifferent to workers and ranks."""

from __future__ import annotations

import pytest
import torch

from vis_projects import get_cfg
from vis_projects.data import build_clip_dataset, build_train_loader, num_identities
from vis_projects.structures import InputError


def config(*names: str, sampler: str = "pair", **changes):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = names or ("synthetic_train:videos=6:length=6",)
    cfg.INPUT.SAMPLER.NAME = sampler
    cfg.INPUT.SAMPLER.FRAMES = 3
    cfg.INPUT.MIN_SIZE_TRAIN = (0,)
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SEED = 1
    for key, value in changes.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


AUGMENTED = {
    "INPUT__MIN_SIZE_TRAIN": (80, 112),
    "INPUT__MIN_SIZE_TRAIN_SAMPLING": "range",
    "INPUT__AUGMENTATIONS__CROP__SIZE": (64, 96),
    "INPUT__AUGMENTATIONS__CROP__STYLE": "instance",
    "INPUT__AUGMENTATIONS__COLOUR__BRIGHTNESS": 0.2,
    "INPUT__AUGMENTATIONS__COLOUR__HUE": 10.0,
    "INPUT__AUGMENTATIONS__MOTION__ROTATION": 5.0,
    "INPUT__AUGMENTATIONS__BLUR__MOTION_PROB": 0.5,
    "INPUT__AUGMENTATIONS__REVERSE_PROB": 0.5,
    "INPUT__AUGMENTATIONS__DUPLICATE_PROB": 0.5,
}


def take(cfg, count: int, start: int = 0) -> list[list[dict]]:
    return [batch for batch, _ in zip(build_train_loader(cfg, start_sample=start), range(count))]


def same(a, b) -> bool:
    """Compare items down to the last bit."""
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and bool((a == b).all())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if hasattr(a, "get_fields"):
        return a.image_size == b.image_size and same(a.get_fields(), b.get_fields())
    if hasattr(a, "tensor"):
        return same(a.tensor, b.tensor)
    return a == b


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_gives_the_items_of_an_uninterrupted_run(workers):
    cfg = config(**AUGMENTED)
    whole = take(cfg, 5)
    cfg.DATALOADER.NUM_WORKERS = workers
    resumed = take(cfg, 3, start=2 * 4)
    assert same(whole[2:], resumed)
    assert not same(whole[:3], resumed)


def test_seeds_change_the_items():
    first = take(config(**AUGMENTED), 2)
    assert same(first, take(config(**AUGMENTED), 2))
    assert not same(first, take(config(**AUGMENTED, SEED=2), 2))


def test_the_loader_counts_samples():
    loader = build_train_loader(config(), start_sample=9)
    assert loader.sample == 8
    next(iter(loader))
    assert loader.sample == 12


@pytest.mark.parametrize(
    "sampler",
    ["still", "pair", "covering_pair", "consecutive", "reference_and_validation", "clip", "window"],
)
def test_items_of_every_sampler(sampler):
    batch = take(config(sampler=sampler), 1)[0]
    assert len(batch) == 4
    frames = {"still": 1, "pair": 2, "covering_pair": 2, "consecutive": 2}.get(sampler, 3)
    for item in batch:
        if sampler == "still":
            assert item["image"].shape == (3, 96, 160) and len(item["instances"]) > 0
            continue
        assert len(item["image"]) == len(item["instances"]) == len(item["frame_indices"]) == frames
        assert len(item["instances"][0]) > 0
        if sampler == "reference_and_validation":
            for instances in item["instances"]:
                assert set(instances.gt_ids.tolist()) <= {item["object_id"]}


def test_data_sets_are_mixed_and_identities_do_not_collide():
    names = ("synthetic_train:videos=4:length=4", "synthetic_stills_train:videos=5")
    cfg = config(*names, DATASETS__WEIGHTS=(3.0, 1.0), INPUT__PSEUDO_CLIP__KIND="affine")
    items = [item for batch in take(cfg, 12) for item in batch]
    counts = [sum(i["dataset"] == n for i in items) for n in names]
    assert counts[0] > counts[1] > 0
    first = num_identities(names[:1])
    for item in items:
        identity = torch.cat([i.gt_identity for i in item["instances"]])
        low, high = (0, first) if item["dataset"] == names[0] else (first, num_identities(names))
        assert ((identity >= low) & (identity < high)).all()
        assert item["pseudo"] == (item["dataset"] == names[1])


def test_classes_can_be_merged_or_balanced():
    merged = take(config(DATASETS__CLASS_AGNOSTIC=True), 2)
    assert all((i.gt_classes == 0).all() for b in merged for x in b for i in x["instances"])
    for balance in ("repeat_factor", "uniform_class"):
        dataset = build_clip_dataset(config(INPUT__SAMPLER__BALANCE=balance))
        assert dataset[3]["instances"][0].has("gt_masks")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"INPUT__SAMPLER__BALANCE": "odd"}, "BALANCE"),
        ({"INPUT__SAMPLER__NAME": "odd"}, "SAMPLER.NAME"),
        ({"DATASETS__WEIGHTS": (1.0, 2.0)}, "2 entries for 1"),
        ({"DATASETS__WEIGHTS": (0.0,)}, "weights"),
        ({"DATASETS__CLASS_MAPS": ("odd",)}, "class map"),
        ({"DATASETS__TRAIN": ()}, "DATASETS.TRAIN"),
        ({"DATASETS__TRAIN": ("synthetic_trian",)}, "synthetic_train"),
        ({"INPUT__PSEUDO_CLIP__KIND": "odd"}, "KIND"),
        ({"SOLVER__IMS_PER_BATCH": 0}, "IMS_PER_BATCH"),
    ],
)
def test_wrong_options_are_explained_before_training(change, words):
    with pytest.raises(InputError, match=words):
        build_train_loader(config(**change))


def test_an_item_without_objects_is_drawn_again():
    cfg = config(INPUT__AUGMENTATIONS__MIN_VISIBLE_PIXELS=700)
    for batch in take(cfg, 3):
        assert all(len(item["instances"][0]) for item in batch)
    cfg = config(INPUT__AUGMENTATIONS__MIN_VISIBLE_PIXELS=100_000)  # impossible: empty, not endless
    assert all(len(item["instances"][0]) == 0 for item in take(cfg, 1)[0])
