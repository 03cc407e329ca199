"""The contract suite: what every system must do, whatever it is."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor
from systems import CASES, SystemCase
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from vis_projects.engine.benchmark import moving_boxes
from vis_projects.evaluation import VideoEvaluator
from vis_projects.modeling import VideoModel
from vis_projects.structures import ArraySource, InputError, VideoInfo, VideoResult

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module", params=DEVICES)
def device(request) -> str:
    return request.param


@pytest.fixture(scope="module", params=CASES, ids=lambda c: c.name)
def case(request) -> SystemCase:
    return request.param


@pytest.fixture(scope="module")
def model(case: SystemCase, device: str) -> VideoModel:
    return case.build(device)


def video(case: SystemCase, frames: int, objects: int = 2) -> tuple[ArraySource, dict]:
    """A synthetic video and, as the first frame's masks, its label map."""
    images, labels = moving_boxes(case.size, objects, frames=max(frames, 1))
    source = ArraySource(images[:frames], size=case.size, image_format="BGR")
    return source, {0: labels[0]} if frames else {}


def run(model: VideoModel, source: ArraySource, masks: dict) -> VideoResult:
    source.image_format = model.input_format
    return model.run_video(source, masks if model.takes_masks else None)


def assert_same(a: VideoResult, b: VideoResult) -> None:
    assert (a.size, a.length) == (b.size, b.length)
    assert [t.id for t in a.tracks] == [t.id for t in b.tracks]
    for x, y in zip(a.tracks, b.tracks):
        assert x.masks == y.masks
        assert x.category_scores == pytest.approx(y.category_scores, abs=1e-5)


def assert_valid(result: VideoResult, size: tuple[int, int], length: int) -> None:
    assert tuple(result.size) == size
    assert result.length == length
    assert len({t.id for t in result.tracks}) == len(result.tracks)
    for track in result.tracks:
        assert track.id > 0
        assert len(track.masks) == length
        assert all(0 <= score <= 1 for score in track.category_scores.values())
        assert all(m is None or tuple(m["size"]) == size for m in track.masks)


def test_second_video_does_not_know_the_first(model: VideoModel, case: SystemCase) -> None:
    second = video(case, 5, objects=1)
    alone = run(model, *second)
    run(model, *video(case, 4, objects=3))
    assert_same(run(model, *second), alone)


def test_stepping_equals_run_video(model: VideoModel, case: SystemCase) -> None:
    if not model.online:
        pytest.skip("offline system")
    source, masks = video(case, 5)
    whole = run(model, source, masks)
    model.start_video(VideoInfo(source.size, None, model.task))
    for frame in source:
        result = model.step(frame, masks.get(frame.index) if model.takes_masks else None)
        fields = result.instances.get_fields()
        assert {"pred_masks", "scores", "pred_classes", "pred_ids"} <= set(fields)
        assert fields["pred_masks"].dtype == torch.bool
        assert fields["pred_masks"].shape[1:] == source.size
    assert_same(model.finish_video(), whole)


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_short_videos(model: VideoModel, case: SystemCase, frames: int) -> None:
    assert_valid(run(model, *video(case, frames)), case.size, frames)


@pytest.mark.parametrize("objects", [1, 12])
def test_number_of_objects(model: VideoModel, case: SystemCase, objects: int) -> None:
    result = run(model, *video(case, 3, objects=objects))
    assert_valid(result, case.size, 3)
    if model.takes_masks:
        wanted = np.unique(video(case, 3, objects=objects)[1][0])
        assert {t.id for t in result.tracks} <= set(wanted.tolist())


def test_no_object(model: VideoModel, case: SystemCase) -> None:
    blank = ArraySource(np.full((3, *case.size, 3), 127, np.uint8), image_format="BGR")
    result = run(model, blank, {})
    assert_valid(result, case.size, 3)
    if model.takes_masks:
        assert result.tracks == []


def test_wrong_frame_size_is_an_error(model: VideoModel, case: SystemCase) -> None:
    if not model.online:
        pytest.skip("offline system")
    source, _ = video(case, 1)
    model.start_video(VideoInfo((case.size[0] + 2, case.size[1]), None, model.task))
    with pytest.raises(InputError, match="start a new video"):
        model.step(source[0])
    model.reset()


def test_bad_masks_are_one_line(model: VideoModel, case: SystemCase) -> None:
    """Wrong size, negative id, three channels: an InputError that names the frame."""
    if not model.takes_masks:
        pytest.skip("takes no masks")
    height, width = case.size
    mask = np.ones(case.size, np.uint8)
    for bad in (
        {1: mask[:-1]},
        {-1: mask},
        np.ones((height, width, 3), np.uint8),
        np.zeros((height, width + 1), np.uint8),
    ):
        source, _ = video(case, 1)
        source.image_format = model.input_format
        model.start_video(VideoInfo(case.size, None, model.task))
        with pytest.raises(InputError, match="^frame 0: .*") as error:
            model.step(source[0], bad)
        assert "\n" not in str(error.value)
        model.reset()


def test_an_empty_mask_starts_nothing(model: VideoModel, case: SystemCase, caplog) -> None:
    """It is skipped with a warning; the object may enter later."""
    if not model.takes_masks:
        pytest.skip("takes no masks")
    source, masks = video(case, 4)
    first = {1: masks[0] == 1, 2: np.zeros(case.size, bool)}
    result = run(model, source, {0: first, 2: {2: masks[0] == 2}})
    assert "object 2 is empty" in caplog.text
    tracks = {t.id: t for t in result.tracks}
    assert all(m is None for m in tracks[2].masks[:2])
    assert tracks[2].masks[2] is not None
    alone = {t.id: t for t in run(model, source, {0: masks[0] == 1}).tracks}
    assert tracks[1].masks[:2] == alone[1].masks[:2]


def dense_bytes() -> int:
    """Bytes of all tensors alive, every storage counted once.

    A weight packed by oneDNN has no storage that can be asked; its values are counted, without the
    padding of its layout. What other tests pretend (fake tensors, wrappers) holds none.
    """
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if not issubclass(type(thing), torch.Tensor) or thing.device.type == "meta":
            continue
        if isinstance(thing, FakeTensor) or is_traceable_wrapper_subclass(thing):
            continue
        if thing.is_mkldnn:
            storages[id(thing)] = thing.numel() * thing.element_size()
        else:
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def test_memory_does_not_grow(model: VideoModel, case: SystemCase) -> None:
    if not model.online:
        pytest.skip("offline system: its cache and memory limits have their own tests")
    images, labels = moving_boxes(case.size, 2, frames=8)
    model.start_video(VideoInfo(case.size, None, model.task, keep_results=False))
    census = {}
    for t in range(60):
        frame = ArraySource(images, image_format=model.input_format)[t % 8]
        entering = labels[0] if model.takes_masks and t == 0 else None
        model.step(type(frame)(frame.image, t), entering)
        if t in (19, 59):
            census[t] = dense_bytes()
    model.reset()
    # Not equal: the number of tracks may differ a little; far from growing with the frames.
    assert census[59] <= 1.1 * census[19] + 1e6


def test_default_predictor(case: SystemCase, model: VideoModel, monkeypatch, tmp_path) -> None:
    cfg = case.cfg(str(model.device), **{"DATASETS.TEST": "()"})
    predictor = DefaultPredictor(cfg)
    predictor.model = model
    images, _ = moving_boxes(case.size, 2, frames=2)
    model.reset()
    if model.takes_masks:
        with pytest.raises(InputError, match=r"VideoPredictor\.start\(masks="):
            predictor(images[0])
        return
    for image in images:
        instances = predictor(image)["instances"]
        assert instances.image_size == case.size
        assert instances.has("pred_ids") == model.online
    model.reset()
    for bad, words in (
        (images[0][..., :1], r"image has 1x\d+x\d+ values"),
        (np.dstack([images[0], images[0][..., :1]]), r"image has 4x\d+x\d+ values"),
        (images[0].astype(np.float32) / 255, "image holds fractions: give a uint8 array"),
    ):
        with pytest.raises(InputError, match=words):
            predictor(bad)


@pytest.mark.parametrize("kind", ["ytvis", "davis_2016", "davis_unsup"])
def test_result_files_are_valid(
    model: VideoModel, case: SystemCase, tmp_path: Path, kind: str
) -> None:
    source, masks = video(case, 3)
    result = run(model, source, masks)
    classes = max((max(t.category_scores) for t in result.tracks), default=0) + 1
    metadata = MetadataCatalog.get(f"contract_{case.name}_{kind}_{tmp_path.name}")
    metadata.set(
        evaluator_type=kind,
        thing_dataset_id_to_contiguous_id={10 + c: c for c in range(classes)},
    )
    evaluator = VideoEvaluator(metadata, tmp_path)
    evaluator.reset()
    item = {
        "video_id": 5,
        "name": "clip",
        "height": case.size[0],
        "width": case.size[1],
        "length": 3,
        "frame_names": ["00000", "00001", "00002"],
    }
    evaluator.process([item], [result])
    assert evaluator.evaluate() == {}
    if kind == "ytvis":
        for entry in json.loads((tmp_path / "results.json").read_text()):
            assert entry["video_id"] == 5
            assert entry["category_id"] >= 10
            assert len(entry["segmentations"]) == 3
    else:
        assert len(list((tmp_path / "results" / "clip").glob("*.png"))) == 3
