"""Samplers, data sets, the mapper and loaders."""

from __future__ import annotations

import itertools
import json
import pickle

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    DatasetMapper,
    MapDataset,
    MetadataCatalog,
    ToIterableDataset,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T
from detectron2.data.build import build_batch_data_loader, worker_init_reset_seed
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.data.samplers import (
    InferenceSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.structures import BoxMode
from PIL import Image
from torch.utils.data import IterableDataset


@pytest.fixture
def small(golden):
    return json.loads(golden("detectron2/small.json").read_text())


def first(iterable, count):
    return list(itertools.islice(iterable, count))


def test_recorded_training_samplers(small):
    expected = small["training_sampler_size17_seed3_first40"]
    assert first(TrainingSampler(17, seed=3), 40) == expected
    plain = TrainingSampler(5, shuffle=False)
    assert first(plain, 12) == small["training_sampler_noshuffle_size5_first12"]


def test_recorded_repeat_factors(small):
    dicts = [
        {"annotations": [{"category_id": c} for c in categories]}
        for categories in small["repeat_dataset_categories"]
    ]
    by_frequency = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
    factors = by_frequency(dicts, 0.3)
    assert factors.tolist() == pytest.approx(small["repeat_factors_thr0.3"], rel=1e-6)
    linear = by_frequency(dicts, 0.3, sqrt=False)
    assert linear.tolist() == pytest.approx(small["repeat_factors_thr0.3_nosqrt"], rel=1e-6)
    sampler = RepeatFactorTrainingSampler(factors, seed=7)
    assert first(sampler, 100) == small["repeat_sampler_seed7_first100"]


def test_recorded_inference_shards(small):
    for key, shards in small["inference_shards"].items():
        size, world = map(int, key.split("/"))
        for rank, (start, stop) in enumerate(shards):
            assert InferenceSampler._get_local_indices(size, world, rank) == range(start, stop)


def test_ranks_split_one_sequence(monkeypatch):
    whole = first(TrainingSampler(7, seed=1), 20)
    parts = []
    for rank in range(2):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda r=rank: r)
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
        parts.append(first(TrainingSampler(7, seed=1), 10))
    assert [x for pair in zip(*parts) for x in pair] == whole


@pytest.mark.lite
def test_bad_sizes():
    with pytest.raises(ValueError, match="above 0"):
        TrainingSampler(0)
    with pytest.raises(TypeError, match="integer"):
        TrainingSampler(2.0)


@pytest.mark.parametrize("serialize", [True, False])
def test_list_data_set_protects_its_items(serialize):
    items = [{"a": [1]}, {"a": [2]}, {"a": [3]}]
    dataset = DatasetFromList(items, copy=True, serialize=serialize)
    dataset[1]["a"].append(9)
    assert dataset[1] == {"a": [2]} and dataset[-1] == {"a": [3]} and len(dataset) == 3
    with pytest.raises(IndexError):
        dataset[3]
    assert len(DatasetFromList([], serialize=serialize)) == 0


@pytest.mark.lite
def test_map_takes_another_index_where_the_result_is_none():
    dataset = MapDataset(DatasetFromList(list(range(10))), lambda x: x if x % 2 else None)
    assert dataset[3] == 3 and all(dataset[i] % 2 for i in range(10))
    never = MapDataset([1, 2], lambda x: None)
    with pytest.raises(RuntimeError, match="None"):
        never[0]
    assert len(pickle.loads(pickle.dumps(MapDataset([1, 2], str)))) == 2

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(5))

    assert list(MapDataset(Stream(), lambda x: x if x % 2 else None)) == [1, 3]


def test_iterable_form_follows_the_sampler():
    dataset = ToIterableDataset(DatasetFromList(list("abcde")), InferenceSampler(5))
    assert list(dataset) == list("abcde") and len(dataset) == 5


def test_batches_are_grouped_by_shape():
    stream = [{"width": w, "height": h} for w, h in [(2, 1), (1, 2), (1, 1), (3, 1), (1, 3)]]
    batches = list(AspectRatioGroupedDataset(stream, 2))
    assert batches == [[stream[1], stream[2]], [stream[0], stream[3]]]


@pytest.mark.parametrize("grouping", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
def test_workers_do_not_change_the_order(grouping, workers):
    dicts = [{"width": 1 + i % 2, "height": 1, "i": i} for i in range(12)]

    def batches(num_workers):
        loader = build_detection_train_loader(
            dicts,
            mapper=None,
            sampler=TrainingSampler(12, seed=0),
            total_batch_size=3,
            aspect_ratio_grouping=grouping,
            num_workers=num_workers,
        )
        return [[d["i"] for d in batch] for batch in first(iter(loader), 6)]

    assert batches(workers) == batches(0)
    assert all(len(batch) == 3 for batch in batches(0))


@pytest.mark.lite
def test_batch_must_split_over_processes(monkeypatch):
    monkeypatch.setattr("detectron2.data.build.get_world_size", lambda: 2)
    with pytest.raises(AssertionError, match="multiple"):
        build_batch_data_loader(DatasetFromList([1, 2]), TrainingSampler(2), 3)


def test_collate_function_and_iterable_data_sets():
    loader = build_detection_train_loader(
        [{"width": 1, "height": 1}] * 4, mapper=None, total_batch_size=2, collate_fn=len
    )
    assert next(iter(loader)) == 2

    class Stream(IterableDataset):
        def __iter__(self):
            return iter([1, 2, 3])

    assert list(build_detection_test_loader(Stream(), mapper=lambda x: -x)) == [[-1], [-2], [-3]]


def test_worker_seeds_differ():
    drawn = []
    for worker in range(2):
        torch.manual_seed(5)
        worker_init_reset_seed(worker)
        drawn.append((np.random.rand(), torch.rand(1).item()))
    assert drawn[0][0] != drawn[1][0] and drawn[0][1] != drawn[1][1]


@pytest.fixture
def stills(tmp_path):
    """Three registered images: one with two objects, one with a crowd only, one empty."""
    name = f"stills_{tmp_path.name}"
    dicts = []
    for i in range(3):
        file = tmp_path / f"{i}.png"
        Image.fromarray(np.full((20, 30, 3), 40 * i, np.uint8)).save(file)
        dicts.append(
            {"file_name": str(file), "height": 20, "width": 30, "image_id": i, "annotations": []}
        )
    box = {"bbox": [2, 3, 10, 8], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1}
    box["segmentation"] = [[2, 3, 12, 3, 12, 11, 2, 11]]
    empty = {**box, "bbox": [5, 5, 0, 4]}
    crowd = {**box, "iscrowd": 1}
    dicts[0]["annotations"] = [box, empty, crowd, {**box, "category_id": 0}]
    dicts[1]["annotations"] = [crowd]
    DatasetCatalog.register(name, lambda: dicts)
    MetadataCatalog.get(name).set(thing_classes=["a", "b"])
    yield name, dicts
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def small_cfg(name):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    cfg.INPUT.MIN_SIZE_TRAIN = (40,)
    cfg.INPUT.MIN_SIZE_TEST = 10
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.MODEL.MASK_ON = True
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    return cfg


def test_mapper(stills):
    name, dicts = stills
    before = json.dumps(dicts)
    item = DatasetMapper(small_cfg(name), True)(dicts[0])
    assert item["image"].shape == (3, 40, 60) and item["image"].dtype == torch.uint8
    assert (item["height"], item["width"]) == (20, 30)
    assert item["instances"].gt_classes.tolist() == [1, 0]
    np.testing.assert_allclose(item["instances"].gt_boxes.tensor[0], [4, 6, 24, 22])
    assert json.dumps(dicts) == before
    test_item = DatasetMapper(small_cfg(name), False)(dicts[0])
    assert test_item["image"].shape == (3, 10, 15)
    assert "instances" not in test_item and "annotations" not in test_item


def test_mapper_recomputes_boxes_after_a_crop(stills):
    name, dicts = stills
    mask = np.zeros((20, 30), np.uint8)
    mask[3:11, 2:12] = 1
    rle = mask_util.encode(np.asfortranarray(mask))
    annotations = [{**a, "segmentation": rle} for a in dicts[0]["annotations"]]
    mapper = DatasetMapper(
        True,
        augmentations=[T.CropTransform(5, 5, 20, 10)],
        image_format="BGR",
        use_instance_mask=True,
        instance_mask_format="bitmask",
        recompute_boxes=True,
    )
    boxes = mapper({**dicts[0], "annotations": annotations})["instances"].gt_boxes.tensor
    np.testing.assert_allclose(boxes, [[0, 0, 7, 6]] * len(boxes))
    assert len(boxes) >= 2
    cfg = small_cfg(name)
    cfg.INPUT.CROP.ENABLED = True
    assert DatasetMapper(cfg, True).recompute_boxes
    assert not DatasetMapper(cfg, False).recompute_boxes


@pytest.mark.lite
def test_dataset_dicts(stills):
    name, dicts = stills
    assert get_detection_dataset_dicts(name) == dicts[:1]
    assert get_detection_dataset_dicts([name, name], filter_empty=False) == dicts * 2
    with pytest.raises(KeyError, match="nowhere"):
        get_detection_dataset_dicts("nowhere")
    MetadataCatalog.get("other_classes").set(thing_classes=["c"])
    DatasetCatalog.register("other_classes", lambda: dicts)
    try:
        with pytest.raises(ValueError, match="thing_classes"):
            get_detection_dataset_dicts([name, "other_classes"])
    finally:
        DatasetCatalog.remove("other_classes")
        MetadataCatalog.remove("other_classes")


@pytest.mark.lite
def test_loaders_from_a_config(stills):
    name, _ = stills
    cfg = small_cfg(name)
    batch = next(iter(build_detection_train_loader(cfg)))
    assert len(batch) == 2 and all("instances" in item for item in batch)
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    assert len(next(iter(build_detection_train_loader(cfg, mapper=dict)))) == 2
    loader = build_detection_test_loader(cfg, name)
    assert len(loader) == 3 and [b[0]["image_id"] for b in loader] == [0, 1, 2]
    assert "annotations" in next(iter(build_detection_test_loader(cfg, name, mapper=dict)))[0]
    cfg.DATALOADER.SAMPLER_TRAIN = "Nonsense"
    with pytest.raises(ValueError, match="Nonsense"):
        build_detection_train_loader(cfg)
