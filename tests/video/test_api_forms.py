"""``VideoPredictor`` in Python: every usual form of frames and masks is right or named."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from vis_projects import VideoPredictor
from vis_projects.engine.benchmark import moving_boxes
from vis_projects.structures import FrameResult, InputError
from vis_projects.video.arrays import array_source, frame_array

CONFIG = "configs/copy_first/davis2017.yaml"
T, H, W = 4, 48, 64


@pytest.fixture(scope="module")
def predictor() -> VideoPredictor:
    return VideoPredictor(CONFIG, device="cpu")


@pytest.fixture(scope="module")
def clip() -> tuple[list[np.ndarray], np.ndarray]:
    images, labels = moving_boxes((H, W), 2, frames=T)
    return list(images), labels[0]


GOOD_FRAMES = {
    "list": lambda f: f,
    "tuple": tuple,
    "array": np.stack,
    "generator": iter,
    "tensors": lambda f: [torch.from_numpy(x) for x in f],
    "t3hw": lambda f: torch.from_numpy(np.stack(f)).permute(0, 3, 1, 2),
    "pil": lambda f: [Image.fromarray(x[..., ::-1]) for x in f],
    "mirrored": lambda f: [x[:, ::-1][:, ::-1] for x in f],
    "loader": lambda f: torch.utils.data.DataLoader(f, batch_size=None),
}


@pytest.mark.parametrize("form", GOOD_FRAMES)
def test_good_frames_give_the_same_pixels(clip, predictor, form: str) -> None:
    frames, labels = clip
    source = array_source(GOOD_FRAMES[form](frames))
    for frame, wanted in zip(source, frames, strict=True):
        assert np.array_equal(frame.array(), wanted)
    results = list(predictor(GOOD_FRAMES[form](frames), masks=labels))
    assert len(results) == T
    assert predictor.video_result.length == T


def test_paths_and_captures(clip, tmp_path: Path) -> None:
    frames, _ = clip
    files = [tmp_path / f"f{t}.png" for t in range(T)]
    for file, image in zip(files, frames):
        cv2.imwrite(str(file), image)
    source = array_source([str(f) for f in files])
    assert [source.name(t) for t in range(T)] == ["f0", "f1", "f2", "f3"]
    assert np.array_equal(source[2].array(), frames[2])
    writer = cv2.VideoWriter(str(tmp_path / "c.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (W, H))
    for image in frames:
        writer.write(image)
    writer.release()
    capture = cv2.VideoCapture(str(tmp_path / "c.avi"))
    assert sum(1 for _ in array_source(capture)) == T


@pytest.mark.parametrize("image_format", ["BGR", "RGB"])
def test_the_order_of_colours_is_stated(clip, image_format: str) -> None:
    """The network gets the same pixels whatever the caller's order and the config's."""
    bgr = clip[0][0]
    rgb = np.ascontiguousarray(bgr[..., ::-1])
    wanted = bgr if image_format == "BGR" else rgb
    for frame, stated in ((bgr, False), (rgb, True), (bgr[..., ::-1], True)):
        array = frame_array(frame, rgb=stated, image_format=image_format)
        assert np.array_equal(array, wanted)
        assert array.flags.c_contiguous
    pil = Image.fromarray(rgb)
    assert np.array_equal(frame_array(pil, image_format=image_format), wanted)


BAD_FRAMES = {
    "grey": lambda f: [x[..., 0] for x in f],
    "grey channel": lambda f: [x[..., :1] for x in f],
    "alpha": lambda f: [np.dstack([x, x[..., 0]]) for x in f],
    "float": lambda f: [x / 255.0 for x in f],
    "uint16": lambda f: [x.astype(np.uint16) for x in f],
    "chw": lambda f: [x.transpose(2, 0, 1) for x in f],
    "one image": lambda f: f[0],
    "sizes": lambda f: [f[0], f[1][:32]],
    "empty": lambda f: [],
    "numbers": lambda f: [1, 2],
    "none": lambda f: None,
}


@pytest.mark.parametrize("form", BAD_FRAMES)
@pytest.mark.parametrize("stream", [False, True], ids=["list", "generator"])
def test_bad_frames_are_named(clip, predictor, form: str, stream: bool) -> None:
    frames, labels = clip
    bad = BAD_FRAMES[form](frames)
    if stream and (not isinstance(bad, list) or form == "sizes"):
        pytest.skip("not a list, or found only when it comes")
    with pytest.raises(InputError, match=r"frame|stream|video"):
        list(predictor((x for x in bad) if stream else bad, masks=labels))


def test_an_iterator_that_changes_size_keeps_what_was_done(clip, predictor) -> None:
    frames, labels = clip
    with pytest.raises(InputError, match="32x64"):
        list(predictor(iter([*frames[:2], frames[2][:32]]), masks=labels))
    assert predictor.video_result.length == 2


GOOD_MASKS = {
    "int64": lambda m: m.astype(np.int64),
    "whole floats": lambda m: m.astype(np.float32),
    "channel": lambda m: m[..., None],
    "list": lambda m: m.tolist(),
    "pil": Image.fromarray,
    "tensor": torch.from_numpy,
    "dict": lambda m: {1: m == 1, 2: m == 2},
    "text ids": lambda m: {"1": m == 1, "2": m == 2},
    "frames": lambda m: {"frames": {0: m}},
}


@pytest.mark.parametrize("form", GOOD_MASKS)
def test_good_masks(clip, predictor, form: str) -> None:
    frames, labels = clip
    list(predictor(frames, masks=GOOD_MASKS[form](labels)))
    assert np.array_equal(predictor.video_result.to_labels()[0], labels)


@pytest.mark.parametrize("one", [lambda m: m > 0, lambda m: (m > 0) * np.uint8(255)])
def test_two_values_are_one_object(clip, predictor, one) -> None:
    list(predictor(clip[0], masks=one(clip[1])))
    assert [t.id for t in predictor.video_result.tracks] == [1]


BAD_MASKS = {
    "negative": lambda m: -m.astype(int),
    "small": lambda m: m[::2, ::2],
    "zero": lambda m: m * 0,
    "fractions": lambda m: m * 0.5,
    "id 0": lambda m: {0: m},
    "names": lambda m: {"dog": m},
    "nothing": lambda m: {},
    "beyond": lambda m: {"frames": {9: m}},
    "rgb": lambda m: np.dstack([m] * 3),
    "number": lambda m: 7,
    "absent file": lambda m: "nowhere.png",
}


@pytest.mark.parametrize("form", BAD_MASKS)
def test_bad_masks_are_named(clip, predictor, form: str) -> None:
    with pytest.raises(InputError, match=r"mask|nowhere\.png"):
        predictor(clip[0], masks=BAD_MASKS[form](clip[1]))


def test_steps_take_the_same_forms(clip, predictor) -> None:
    frames, labels = clip
    predictor.start((H, W), masks=labels, keep_results=True)
    predictor.step(frames[0])
    predictor.step(frames[1][..., ::-1], rgb=True)
    predictor.step(Image.fromarray(frames[2][..., ::-1]))
    with pytest.raises(InputError, match="frame 3 is float64"):
        predictor.step(frames[3] / 255.0)
    assert predictor.finish().length == 3


def test_a_loop_that_is_left_keeps_its_frames(clip, predictor) -> None:
    frames, labels = clip
    for result in predictor(frames, masks=labels):
        if result.index == 1:
            break
    assert predictor.video_result.length == 2


def test_results_as_arrays() -> None:
    masks = torch.zeros(1, 4, 5, dtype=torch.bool)
    arrays = FrameResult.build(masks, torch.tensor([3])).numpy()
    assert {k: v.shape for k, v in arrays.items()} == {
        "masks": (1, 4, 5),
        "ids": (1,),
        "classes": (1,),
        "scores": (1,),
    }
    assert all(isinstance(v, np.ndarray) for v in arrays.values())


def test_a_threshold_leaves_results_out(clip) -> None:
    frames, labels = clip
    strict = VideoPredictor(CONFIG, device="cpu", threshold=1.5)
    assert [len(r) for r in strict(frames, masks=labels)] == [0] * T
    assert strict.video_result.tracks == []
