"""FRTM whose coarse scores are labels carried on by nearest neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vis_projects.frtm import FRTMPropagator
from vis_projects.frtm.matching_tracker import matched_scores
from vis_projects.frtm.training import Item
from vis_projects.structures import ArraySource, Frame, InputError, VideoInfo

from .test_training import item
from .tiny_frtm import SIZE, clip, tiny

MATCHING = ("MODEL.FRTM.TARGET_MODEL", "matching", "MODEL.INFERENCE_DTYPE", "float32")


def frames_of(images: np.ndarray) -> list[Frame]:
    return [Frame(torch.from_numpy(i).permute(2, 0, 1), t) for t, i in enumerate(images)]


@pytest.fixture(scope="module")
def model():
    return tiny(*MATCHING)


def test_what_the_network_makes_of_labels_is_not_carried_on(model):
    """Whatever the segmentation network's weights are, the memory holds the same labels."""
    images, labels = clip(2, 5)
    remembered = []
    for gain in (0.0, 3.0):
        with torch.no_grad():
            model.refiner.project.conv2.bias.fill_(gain)
        model.run_video(ArraySource(images), {0: labels[0]})
        memory = model.tracker.memory
        assert len(memory.references) == 1 and memory.ids == [1, 2]
        remembered.append(memory.previous.labels)
    assert torch.equal(*remembered)
    assert torch.allclose(remembered[0].sum(0), torch.ones_like(remembered[0][0]), atol=1e-5)


@torch.no_grad()
def test_training_sees_the_scores_of_the_test(model):
    images, labels = clip(1, 4)
    model.begin(VideoInfo(SIZE))
    frames = frames_of(images)
    model.segment(frames[0], labels[0])
    masks = torch.from_numpy(labels[:1] == 1)
    scores = matched_scores(model.tracker.memory, model.tracker.features(frames[:1]), masks)
    for frame in frames[1:]:
        wanted = model.tracker.look(frame).soft[1:, None]
        model.segment(frame)
        assert torch.equal(scores(model.tracker.features([frame])), wanted)


def shuffled(made: Item) -> Item:
    order = [0, 2, 1]
    parts = ("image", "instances", "frame_indices")
    return {**made, **{k: [made[k][n] for n in order] for k in parts}}


def test_losses_follow_time_in_whatever_order_frames_come():
    model = tiny(*MATCHING).train()
    with torch.no_grad():
        losses = [model([make(item(0)), item(1)]) for make in (lambda i: i, shuffled)]
    assert losses[0] == losses[1] and sorted(losses[0]) == ["loss_mask_1", "loss_mask_2"]
    sum(model([item(0), item(1, visible=False)]).values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.refiner.parameters())
    assert all(p.grad is None for p in model.backbone.parameters())


def test_propagator_equals_the_model_and_keeps_references(model):
    images, labels = clip(2, 6)
    frames = frames_of(images)
    wanted = list(model.run_video(ArraySource(images), {0: labels[0]}).label_maps())
    propagator = FRTMPropagator(model=model)
    propagator.reset(SIZE)
    propagator.commit(torch.from_numpy(labels[0]), [1, 2], frame=frames[0])
    for t in range(1, 6):
        said = propagator.predict(frames[t])
        assert np.array_equal(said.label_map.numpy(), wanted[t])
        # a copy is compared pixel by pixel, the map itself is known to be the prediction
        propagator.commit(said.label_map.clone() if t % 2 else said.label_map, reference=t == 5)
    assert len(propagator.tracker.memory.references) == 2


def test_an_object_that_enters_takes_its_pixels_in_the_memory(model):
    images, labels = clip(2, 3)
    frames = frames_of(images)
    model.begin(VideoInfo(SIZE))
    model.segment(frames[0], {5: labels[0] == 1})
    model.segment(frames[1], {3: labels[1] == 2, 5: labels[1] == 1})
    memory = model.tracker.memory
    assert memory.ids == [5, 3] and len(memory.references) == 2
    size = memory.previous.labels.shape[-2:]
    for row, label in ((1, 1), (2, 2)):
        mask = torch.from_numpy(labels[1] == label).float()[None, None]
        share = torch.nn.functional.interpolate(mask, size, mode="area")[0, 0]
        assert torch.equal(memory.previous.labels[row], share)
    model.drop_objects([5])
    assert memory.ids == [3] and len(memory.previous.labels) == 2


def test_maps_that_frtm_does_not_read_are_named():
    with pytest.raises(InputError, match="LEVELS.*res9.*res2, res3, res4, res5"):
        tiny(*MATCHING, "MODEL.FEATURE_MATCH.LEVELS", "('res9',)",
             "MODEL.FEATURE_MATCH.LEVEL_WEIGHTS", "(1.0,)")  # fmt: skip
