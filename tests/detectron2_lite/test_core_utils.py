"""Catalogues, files, logging, registries, processes, drawing."""

from __future__ import annotations

import logging
import os
import pickle

import numpy as np
import pytest
import torch
import torch.distributed as dist
from detectron2.data.catalog import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.engine import launch
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.colormap import colormap, random_color, random_colors
from detectron2.utils.env import TORCH_VERSION, seed_all_rng
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import (
    create_small_table,
    log_every_n,
    log_every_n_seconds,
    log_first_n,
    setup_logger,
)
from detectron2.utils.memory import retry_if_cuda_oom
from detectron2.utils.registry import Registry, locate
from detectron2.utils.video_visualizer import VideoVisualizer
from detectron2.utils.visualizer import ColorMode, GenericMask, Visualizer


def test_dataset_catalog():
    name = "core_test_set"
    calls = []
    DatasetCatalog.register(name, lambda: calls.append(1) or [{"a": 1}])
    try:
        assert name in DatasetCatalog and name in DatasetCatalog.list()
        assert DatasetCatalog.get(name) == DatasetCatalog.get(name) == [{"a": 1}]
        assert len(calls) == 2  # nothing is cached
        with pytest.raises(AssertionError):
            DatasetCatalog.register(name, list)
    finally:
        DatasetCatalog.remove(name)
    with pytest.raises(KeyError):
        DatasetCatalog.get(name)
    with pytest.raises(AssertionError):
        DatasetCatalog.register(name, [])


def test_metadata():
    meta = MetadataCatalog.get("core_test_meta")
    try:
        assert MetadataCatalog.get("core_test_meta") is meta and meta.name == "core_test_meta"
        assert meta.set(thing_classes=["a"], x=1) is meta
        meta.x = 1
        with pytest.raises(AssertionError):
            meta.x = 2
        assert not hasattr(meta, "y") and meta.get("y", 5) == 5 and meta.get("x") == 1
        with pytest.raises(AttributeError):
            _ = meta.y
        copied = meta.as_dict()
        copied["z"] = 0
        assert not hasattr(meta, "z") and "core_test_meta" in MetadataCatalog.list()
        assert pickle.loads(pickle.dumps(meta)).x == 1
    finally:
        MetadataCatalog.remove("core_test_meta")
    assert Metadata(a=1).a == 1


def test_registry_and_locate():
    registry = Registry("THING")

    @registry.register()
    class A:
        pass

    assert registry.get("A") is A
    with pytest.raises(AssertionError):
        registry.register(A)
    with pytest.raises(KeyError):
        registry.get("B")
    assert locate("detectron2.structures.Boxes") is Boxes
    assert locate("detectron2.structures.boxes.Boxes.area") is Boxes.area
    for wrong in ("detectron2.structures.Nothing", "no_such_package.x"):
        with pytest.raises(ImportError):
            locate(wrong)


def test_path_manager(tmp_path, monkeypatch):
    path = tmp_path / "a" / "b.txt"
    PathManager.mkdirs(str(path.parent))
    with PathManager.open(str(path), "w") as f:
        f.write("x")
    assert PathManager.isfile(str(path)) and PathManager.get_local_path(str(path)) == str(path)
    asked = []
    original = type(PathManager).get_local_path

    def record(self, url, force=False, **kwargs):
        if url.startswith("https://"):
            asked.append(url)
            return str(path)
        return original(self, url, force, **kwargs)

    monkeypatch.setattr(type(PathManager), "get_local_path", record)
    assert PathManager.get_local_path("detectron2://x/y.pkl") == str(path)
    with PathManager.open("detectron2://x/y.pkl", "r") as f:
        assert f.read() == "x"
    assert asked == ["https://dl.fbaipublicfiles.com/detectron2/x/y.pkl"] * 2


def test_setup_logger(tmp_path, capsys):
    logger = setup_logger(str(tmp_path), name="core_test", abbrev_name="ct")
    assert setup_logger(str(tmp_path), name="core_test", abbrev_name="ct") is logger
    assert len(logger.handlers) == 2 and not logger.propagate
    logging.getLogger("core_test.sub").warning("look")
    text = (tmp_path / "log.txt").read_text()
    assert "ct.sub WARNING: look" in text and text.count("\n") == 1
    assert "look" in capsys.readouterr().out
    second = setup_logger(str(tmp_path / "own.log"), 2, name="core_test2")
    second.info("quiet")
    assert "quiet" in (tmp_path / "own.log.rank2").read_text()
    assert "quiet" not in capsys.readouterr().out


def test_log_sometimes(caplog):
    with caplog.at_level(logging.INFO):
        for i in range(5):
            log_first_n(logging.INFO, "first", 2)
            log_every_n(logging.INFO, "every", 2)
            log_every_n_seconds(logging.INFO, "seconds", 1000)
            log_first_n(logging.INFO, f"by message {i % 2}", key="message")
    lines = [r.message for r in caplog.records]
    assert [lines.count(x) for x in ("first", "every", "seconds")] == [2, 3, 1]
    assert lines.count("by message 0") == lines.count("by message 1") == 1
    assert caplog.records[0].name == __name__
    assert "AP" in create_small_table({"AP": 1.0}) and "1.000" in create_small_table({"AP": 1.0})


def test_seed():
    seed_all_rng(7)
    a = (np.random.rand(), torch.rand(1).item())
    seed_all_rng(7)
    assert a == (np.random.rand(), torch.rand(1).item())
    assert TORCH_VERSION >= (2, 0)


@pytest.mark.lite
def test_retry_without_memory():
    calls = []

    @retry_if_cuda_oom
    def double(x, *, times=2):
        calls.append(1)
        if len(calls) < 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return x * times

    assert double(torch.ones(2), times=3).tolist() == [3, 3] and len(calls) == 3

    @retry_if_cuda_oom
    def other():
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        other()


def test_world_of_one():
    assert (comm.get_world_size(), comm.get_rank(), comm.get_local_rank()) == (1, 0, 0)
    assert comm.get_local_size() == 1 and comm.is_main_process()
    comm.synchronize()
    assert comm.all_gather({"a": 1}) == comm.gather({"a": 1}) == [{"a": 1}]
    values = {"x": torch.tensor(1.0)}
    assert comm.reduce_dict(values) is values
    assert 0 <= comm.shared_random_seed() < 2**31
    ran = []
    launch(ran.append, 1, args=(3,))
    assert ran == [3]


def _work(folder, factor):
    rank = comm.get_rank()
    assert dist.get_backend() == "gloo" and comm.get_world_size() == 2
    assert comm.get_local_rank() == rank and comm.get_local_size() == 2
    np.random.seed(rank)
    seed = comm.shared_random_seed()
    assert comm.all_gather(seed) == [seed] * 2
    assert comm.all_gather("ab"[rank]) == ["a", "b"]
    assert comm.gather(rank * factor) == ([0, factor] if rank == 0 else [])
    assert comm.gather(rank, dst=1) == ([0, 1] if rank == 1 else [])
    mean = comm.reduce_dict({"b": torch.tensor(rank + 1.0), "a": torch.tensor(2.0 * rank)})
    if rank == 0:
        assert mean["b"] == 1.5 and mean["a"] == 1.0
    comm.synchronize()
    with open(os.path.join(folder, str(rank)), "w") as f:
        f.write("done")


@pytest.mark.lite
@pytest.mark.slow
def test_two_processes(tmp_path):
    launch(_work, 2, dist_url="auto", args=(str(tmp_path), 5))
    assert sorted(os.listdir(tmp_path)) == ["0", "1"]
    with pytest.raises(AssertionError, match="auto"):
        launch(_work, 2, num_machines=2, dist_url="auto")


def test_collect_env():
    text = collect_env_info()
    assert "detectron2" in text and torch.__version__ in text


def test_colormap():
    colors = colormap(rgb=True, maximum=1)
    assert colors.shape[1] == 3 and len(colors) >= 74
    assert len({tuple(c) for c in colors.round(3).tolist()}) == len(colors)
    assert (colormap(maximum=255)[:, ::-1] == colors * 255).all()
    assert random_color(rgb=True, maximum=1).max() <= 1 and len(random_colors(5)) == 5


def two_objects(h=60, w=80):
    masks = torch.zeros(2, h, w, dtype=torch.bool)
    masks[0, 10:30, 10:40] = True
    masks[1, 35:55, 30:70] = True
    x = Instances((h, w), pred_masks=masks, scores=torch.tensor([0.9, 0.4]))
    x.pred_boxes = BitMasks(masks).get_bounding_boxes()
    x.pred_classes = torch.tensor([1, 0])
    return x


@pytest.mark.parametrize("mode", list(ColorMode))
def test_visualizer(mode, tmp_path):
    image = np.full((60, 80, 3), (90, 100, 110), np.uint8)
    meta = Metadata(thing_classes=["cat", "dog"], thing_colors=[(255, 0, 0), (0, 255, 0)])
    drawn = Visualizer(image, meta, instance_mode=mode).draw_instance_predictions(two_objects())
    out = drawn.get_image()
    assert out.shape == image.shape and out.dtype == np.uint8
    assert (out[25, 35] != image[25, 35]).any()  # inside the first mask
    grey = [100, 100, 100] if mode is ColorMode.IMAGE_BW else image[2, 75]
    assert (out[2, 75] == grey).all()  # far from both
    if mode is ColorMode.SEGMENTATION:
        assert out[25, 35].argmax() == 1 and out[50, 65].argmax() == 0
    drawn.save(str(tmp_path / "x.png"))
    assert (tmp_path / "x.png").stat().st_size > 100


def test_visualizer_parts():
    image = np.zeros((60, 80, 3), np.uint8)
    assert Visualizer(image, scale=1.5).get_output().get_image().shape == (90, 120, 3)
    visualizer = Visualizer(image)
    assert visualizer.overlay_instances().get_image().max() == 0
    ring = np.zeros((60, 80), bool)
    ring[10:50, 10:70] = True
    ring[20:40, 20:60] = False
    out = visualizer.draw_binary_mask(ring, color="r", alpha=1.0).get_image()
    assert out[15, 40, 0] == 255 and out[30, 40].max() == 0  # a hole stays free
    annotation = {
        "bbox": [5, 5, 20, 20],
        "bbox_mode": 1,
        "category_id": 0,
        "segmentation": [[5.0, 5, 25, 5, 25, 25]],
        "iscrowd": 1,
    }
    out = Visualizer(image).draw_dataset_dict({"annotations": [annotation]}).get_image()
    assert out[8, 20].max() > 0
    assert Visualizer(image).draw_dataset_dict({}).get_image().max() == 0
    with pytest.raises(NotImplementedError):
        visualizer.overlay_instances(keypoints=np.zeros((1, 17, 3)))
    with pytest.raises(AssertionError):
        visualizer.overlay_instances(boxes=np.zeros((2, 4)), labels=["a"])


def test_generic_mask():
    square = np.zeros((20, 30), bool)
    square[5:10, 6:16] = True
    mask = GenericMask(square, 20, 30)
    assert mask.area() == 50 and mask.bbox().tolist() == [6, 5, 16, 10] and not mask.has_holes
    assert len(mask.polygons) == 1
    square[7, 8:12] = False
    assert GenericMask(square, 20, 30).has_holes
    polygon = GenericMask([np.array([6, 5, 16, 5, 16, 10, 6, 10.0])], 20, 30)
    assert polygon.area() == 50
    runs = GenericMask({"size": [2, 3], "counts": [1, 2, 3]}, 2, 3)
    assert runs.mask.tolist() == [[0, 1, 0], [1, 0, 0]]
    assert GenericMask(np.zeros((20, 30)), 20, 30).polygons == []
    with pytest.raises(ValueError):
        GenericMask(square, 5, 5)


def test_video_visualizer_keeps_colours():
    frame = np.zeros((60, 80, 3), np.uint8)
    meta = Metadata(thing_classes=["cat", "dog"], max_num_instances=2)
    video = VideoVisualizer(meta)
    objects = two_objects()
    video.draw_instance_predictions(frame, objects)
    first = [x.color for x in video._seen]
    for _ in range(7):  # unseen for less than the time to live
        video.draw_instance_predictions(frame, Instances((60, 80)))
    video.draw_instance_predictions(frame, objects[torch.tensor([1, 0])])
    second = [x.color for x in video._seen]
    assert np.array_equal(first[0], second[1]) and np.array_equal(first[1], second[0])
    for _ in range(8):
        video.draw_instance_predictions(frame, Instances((60, 80)))
    assert video._seen == []

    a, b = video._assign_by_id([5, 9])
    assert not np.array_equal(a, b) and np.array_equal(video._assign_by_id([9])[0], b)
    video._assign_by_id([11])  # takes the colour of 5, which was unseen for longest
    assert set(video._color_of_id) == {9, 11}
    assert len(video._assign_by_id([1, 2, 3])) == 3
    objects.ID = [3, 4]
    assert video.draw_instance_predictions(frame, objects).get_image()[20, 20].max() > 0
