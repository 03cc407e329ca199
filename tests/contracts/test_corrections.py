"""Corrections of known objects, and objects that are removed, in every system that takes masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from systems import CASES, SystemCase

from vis_projects.engine.benchmark import moving_boxes
from vis_projects.modeling import VideoModel
from vis_projects.modeling.backward_corrections import GivenMasks
from vis_projects.structures import (
    ArraySource,
    InputError,
    IterableSource,
    VideoInfo,
    VideoResult,
    decode_mask,
)
from vis_projects.video import VideoPredictor

FRAMES, AT = 12, 5


@pytest.fixture(scope="module", params=CASES, ids=lambda c: c.name)
def case(request) -> SystemCase:
    case = request.param
    if case.name != "cfbi":
        case = replace(case, size=(144, 208))  # enough cells for appearance to tell
    if case.package == "frtm":  # an untrained segmentation network would hide what targets learn
        case = replace(case, opts=(*case.opts, "MODEL.FRTM.SEGMENTATION", "False"))
    return case


@pytest.fixture(scope="module")
def model(case: SystemCase) -> VideoModel:
    model = case.build()
    if not model.takes_masks:
        pytest.skip("takes no masks")
    return model


@pytest.fixture(scope="module")
def clip(case: SystemCase) -> tuple[np.ndarray, np.ndarray]:
    return moving_boxes(case.size, 2, frames=FRAMES)


def run(model: VideoModel, clip, new_masks: dict) -> VideoResult:
    source = ArraySource(clip[0], size=clip[0].shape[1:3], image_format=model.input_format)
    return model.run_video(source, new_masks)


def label_maps(result: VideoResult) -> list[np.ndarray]:
    return [labels.astype(np.int64) for labels in result.label_maps()]


def iou(found: np.ndarray, wanted: np.ndarray) -> float:
    return float((found & wanted).sum() / max((found | wanted).sum(), 1))


def mean_j(result: VideoResult, truth: np.ndarray, frames: range) -> float:
    maps = label_maps(result)
    return float(np.mean([iou(maps[t] == i, truth[t] == i) for t in frames for i in (1, 2)]))


def test_a_correction_equal_to_the_prediction_changes_little(model, clip) -> None:
    _, truth = clip
    plain = run(model, clip, {0: truth[0]})
    same = {i: label_maps(plain)[AT] == i for i in (1, 2)}
    again = run(model, clip, {0: truth[0], AT: same})
    assert np.array_equal(label_maps(plain)[AT], label_maps(again)[AT])
    # Before it, the errors of the mask that was said to be right are followed back.
    for frames, loss in ((range(1, AT), 0.02), (range(AT + 1, FRAMES), 0.01)):
        assert mean_j(again, truth, frames) >= mean_j(plain, truth, frames) - loss


def test_a_true_mask_helps_the_frames_before_it(model, case, clip) -> None:
    """Those back to the mask before; other objects lose nothing but the pixels that it takes."""
    images, truth = clip
    wrong = np.zeros_like(truth[0])
    corner, count = np.argwhere(truth[0] == 0), int((truth[0] == 1).sum())
    wrong[tuple(corner[:count].T)], wrong[tuple(corner[-count:].T)] = 1, 2
    at = FRAMES - 2
    masks = {0: wrong, at: {1: truth[at] == 1}}
    first = at * count // (count + int(masks[at][1].sum())) + 1
    assert 3 < first < 8
    both = label_maps(run(model, clip, masks))
    model.start_video(VideoInfo(truth[0].shape, None, model.task))
    for t, frame in enumerate(ArraySource(images, image_format=model.input_format)):
        model.step(frame, masks.get(t))
    stream = label_maps(model.finish_video())
    for t in [0, *range(at, FRAMES)]:
        assert np.array_equal(both[t], stream[t])
    gain = 0.0
    for t in range(1, at):
        assert (both[t] == 1).any() or t < first
        others = both[t] != 1
        assert np.array_equal((both[t] == 2)[others], (stream[t] == 2)[others])
        if t >= first:
            gain += iou(both[t] == 1, truth[t] == 1) - iou(stream[t] == 1, truth[t] == 1)
    assert gain / (at - first) > 0.1 or case.name == "cfbi"


def test_a_sliver_spoils_little(model, case, clip) -> None:
    """An object that something hides but for a few pixels: it is said to be these alone."""
    images, truth = clip[0].copy(), clip[1].copy()
    sliver = np.zeros(truth[0].shape, bool)
    sliver[tuple(np.argwhere(truth[AT] == 1)[:40].T)] = True
    hidden = (truth[AT] == 1) & ~sliver
    images[AT][hidden] = np.random.default_rng(0).integers(0, 255, (int(hidden.sum()), 3))
    truth[AT][hidden] = 0
    plain = run(model, (images, truth), {0: truth[0]})
    again = run(model, (images, truth), {0: truth[0], AT: {1: sliver}})
    before = range(1, AT)
    loss = mean_j(plain, truth, before) - mean_j(again, truth, before)
    assert loss < 0.05 or case.name == "cfbi", loss
    assert np.array_equal(label_maps(again)[AT] == 1, sliver)


def test_an_object_may_enter_where_another_is_a_sliver() -> None:
    """The frame is no reference for the sliver, and the first one for the object that enters."""
    size = (20, 20)

    def first_cells(count: int) -> np.ndarray:
        return (np.arange(400) < count).reshape(size)

    given = GivenMasks()
    given.note(0, {1: first_cells(100)}, size)
    given.note(10, {1: first_cells(5), 2: ~first_cells(300)}, size)
    given.note(20, {2: ~first_cells(395)}, size)  # a sliver of the second, too
    assert [(c.frame, c.given, c.sliver) for c in given.corrections] == [
        (10, [0], True),
        (20, [10], True),
    ]


@pytest.mark.parametrize("kind", ["option", "one pass"])
def test_corrections_work_forward_only(model, clip, kind) -> None:
    """By ``MODEL.CORRECT_BACKWARD``, and where the frames cannot be read again."""
    images, truth = clip
    masks = {0: truth[0], AT: np.roll(truth[AT], 8, 1)}
    model.start_video(VideoInfo(truth[0].shape, None, model.task))
    for t, frame in enumerate(ArraySource(images, image_format=model.input_format)):
        model.step(frame, masks.get(t))
    stream = label_maps(model.finish_video())
    source = ArraySource(images, image_format=model.input_format)
    if kind == "one pass":
        source = IterableSource(iter(images), image_format=model.input_format)
    model.correct_backward = kind != "option"
    try:
        result = label_maps(model.run_video(source, masks))
    finally:
        model.correct_backward = True
    assert all(np.array_equal(a, b) for a, b in zip(stream, result, strict=True))


def test_a_true_mask_replaces_the_prediction(model, case, clip) -> None:
    """The frame is as it was given, other objects stay, and later frames gain (CFBI's untrained
    network follows nothing: tests/cfbi look at its references)."""
    _, truth = clip
    wrong = np.zeros_like(truth[0])  # a start on two pieces of the background
    corner = np.argwhere(truth[0] == 0)
    wrong[tuple(corner[:40].T)], wrong[tuple(corner[-40:].T)] = 1, 2
    plain = run(model, clip, {0: wrong})
    given = {1: truth[AT] == 1}
    fixed = run(model, clip, {0: wrong, AT: given})
    assert [t.id for t in fixed.tracks] == [t.id for t in plain.tracks] == [1, 2]
    here = label_maps(fixed)[AT]
    assert np.array_equal(here == 1, given[1])
    free = ~given[1] & (label_maps(plain)[AT] != 1)
    assert np.array_equal(here[free], label_maps(plain)[AT][free])
    both = run(model, clip, {0: wrong, AT: truth[AT]})
    after = range(AT + 1, FRAMES)
    gain = mean_j(both, truth, after) - mean_j(plain, truth, after)
    assert gain > 0.1 or case.name == "cfbi"


def test_an_empty_correction_says_that_the_object_is_absent(model, clip) -> None:
    _, truth = clip
    result = run(model, clip, {0: truth[0], AT: {1: np.zeros(truth[0].shape, bool)}})
    tracks = {t.id: t for t in result.tracks}
    assert tracks[1].masks[AT] is None and tracks[1].masks[0] is not None
    assert len(tracks) == 2


def test_removed_objects_stay_away(model, clip) -> None:
    images, truth = clip
    model.start_video(VideoInfo(truth[0].shape, None, model.task))
    source = ArraySource(images, image_format=model.input_format)
    for t, frame in enumerate(source):
        if t == AT:
            model.remove([2])
            with pytest.raises(InputError, match="object 2 is not followed"):
                model.remove([2])
        given = {0: truth[0], AT + 3: {2: truth[AT + 3] == 2}}.get(t)
        ids = model.step(frame, given).instances.pred_ids.tolist()
        assert ids == ([1] if AT <= t < AT + 3 else [1, 2])
    model.remove([1, 2])
    assert model.object_ids == []
    assert len(model.step(source[0])) == 0
    tracks = {t.id: t for t in model.finish_video().tracks}
    assert tracks[2].masks[AT] is None
    assert np.array_equal(decode_mask(tracks[2].masks[AT + 3]), truth[AT + 3] == 2)


def test_many_corrections_have_a_limit(model, case, clip) -> None:
    """Memory after 23 corrections is that after 11 (MODEL.MAX_REFERENCES is 8)."""
    from test_video_model import dense_bytes

    images, truth = clip
    model.start_video(VideoInfo(truth[0].shape, None, model.task, keep_results=False))
    census = {}
    for t in range(24):
        frame = ArraySource(images, image_format=model.input_format)[t % FRAMES]
        model.step(type(frame)(frame.image, t), truth[t % FRAMES])
        if t in (11, 23):
            census[t] = dense_bytes()
    model.reset()
    assert census[23] <= 1.01 * census[11] + 1e5


def test_predictor_takes_corrections(model, case, clip) -> None:
    images, truth = clip
    predictor = VideoPredictor(case.cfg(**{"DATASETS.TEST": "()"}), model=model)
    predictor.start(truth[0].shape, masks=truth[0], keep_results=True)
    for t, image in enumerate(images):
        result = predictor.step(image, {1: truth[t] == 1} if t == AT else None)
        if t == AT:
            found = result.instances.pred_masks[result.instances.pred_ids == 1][0]
            assert torch.equal(found.cpu(), torch.from_numpy(truth[t] == 1))
        if t == AT + 1:
            predictor.remove([1])
    tracks = {t.id: t for t in predictor.finish().tracks}
    assert all(m is None for m in tracks[1].masks[AT + 2 :])
    given = {"frames": {0: truth[0], AT: {2: truth[AT] == 2}}}
    results = list(predictor(images, masks=given))
    assert [r.index for r in results] == list(range(FRAMES))
    for result, wanted in zip(results, predictor.video_result.label_maps()):
        assert np.array_equal(result.label_map().numpy(), wanted)
    tracks = {t.id: t for t in predictor.video_result.tracks}
    assert np.array_equal(decode_mask(tracks[2].masks[AT]), truth[AT] == 2)


def test_the_measurement_of_corrections() -> None:
    """benchmarks/corrections.py: the worst frame is given, and the others are scored."""
    from benchmarks.corrections import correct, summary

    case = CASES[0]
    assert case.name == "copy_first"
    images, truth = moving_boxes((64, 96), 1, frames=20)
    model = case.build()
    source = ArraySource(images, size=(64, 96), image_format=model.input_format)
    rows = correct(model, source, list(truth), corrections=2, after=5)
    assert len({r["frame"] for r in rows}) == 2 and all(0 < r["frame"] < 14 for r in rows)
    assert all(r["after"] > r["before"] for r in rows)
    found = summary({"a": rows, "b": [{"frame": 3, "before": 0.7, "after": 0.6}]})
    assert "in 1 of 2 sequences" in found and f"({rows[0]['frame']})" in found
