"""Sizes, multi-scale and flip, the loss, and the tracker on small networks."""

from __future__ import annotations

import math

import fill
import numpy as np
import pytest
import torch

from vis_projects.cfbi.matching import global_distances
from vis_projects.cfbi.network import CFBINetwork
from vis_projects.cfbi.preprocess import CFBIPreprocess, network_size, runs_of
from vis_projects.cfbi.propagator import CFBIPropagator
from vis_projects.cfbi.training import hardest_cross_entropy, mining_share
from vis_projects.modeling import FeatureCache
from vis_projects.structures import Frame

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_loss(golden, recording) -> None:
    data, used = np.load(golden("cfbi/loss.npz")), recording("cfbi/loss.npz")
    shape = (1, 4, *data["label"].shape)
    values = fill.values("cfbi.a.loss.logits", shape) * math.sqrt(math.prod(shape)) * 2
    logits = torch.from_numpy(values.astype(np.float32))
    labels = torch.from_numpy(data["label"].astype(np.int64))[None]
    for step, wanted in zip(data["steps"], data["loss"]):
        found = hardest_cross_entropy(
            logits, labels, mining_share(int(step), used["top_k"], used["mining_step"])
        )
        assert abs(found.item() - wanted) <= 1e-5


def test_recorded_sizes(golden, recording) -> None:
    data, used = np.load(golden("cfbi/multiscale_flip.npz")), recording("cfbi/multiscale_flip.npz")
    runs, size = runs_of(tuple(used["scales"]), flip=True), data["label_0"].shape
    found = [list(network_size(size, used["limit"], r.scale)) for r in runs]
    assert found == data["sizes"].tolist()
    assert [r.flip for r in runs] == data["flips"].tolist()
    assert network_size((480, 854), 1040) == (481, 849)
    assert network_size((720, 1280), 800)[1] <= 801


@pytest.mark.slow
def test_recorded_multiscale_and_flip(golden, recording, filled_network) -> None:
    data, used = np.load(golden("cfbi/multiscale_flip.npz")), recording("cfbi/multiscale_flip.npz")
    size = data["label_0"].shape
    frames = fill.frames(used["seed"], 2, *size)[..., ::-1].copy()
    frames = [Frame(torch.from_numpy(f).permute(2, 0, 1), t) for t, f in enumerate(frames)]
    preprocess = CFBIPreprocess(MEAN, STD, limit=used["limit"])
    scales = tuple(used["scales"])
    propagator = CFBIPropagator(filled_network, preprocess, scales=scales, flip=True)
    propagator.reset(size)
    labels = torch.from_numpy(data["label_0"].astype(np.int64))
    propagator.commit(labels, labels.unique()[1:].tolist(), frame=frames[0])
    found = propagator.predict(frames[1])
    assert np.abs(found.probabilities.numpy() - data["prob_mean"]).max() <= 1e-3
    best = np.sort(data["prob_mean"], 0)
    clear = best[-1] - best[-2] > 1e-3
    assert np.array_equal(found.label_map.numpy()[clear], data["label_1"][clear])


@pytest.fixture
def small() -> CFBIPropagator:
    torch.manual_seed(0)
    network = CFBINetwork(depth=18, width=32, embedding_dim=16, head_width=32, norm="BN").eval()
    return CFBIPropagator(network, CFBIPreprocess(MEAN, STD))


def frames_of(count: int, size: tuple[int, int] = (49, 65)) -> list[Frame]:
    arrays = fill.frames(3, count, *size)
    return [Frame(torch.from_numpy(a).permute(2, 0, 1), t) for t, a in enumerate(arrays)]


def run(propagator: CFBIPropagator, frames: list[Frame]) -> list[torch.Tensor]:
    propagator.reset(frames[0].size)
    labels = torch.zeros(frames[0].size, dtype=torch.int64)
    labels[10:30, 10:30] = 7
    propagator.commit(labels, [7], frame=frames[0])
    out = []
    for frame in frames[1:]:
        prediction = propagator.predict(frame)
        labels = prediction.label_map.clone()
        new = [3] if frame.index == 2 else []
        if new:
            labels[40:, 50:] = 3
        propagator.commit(labels, new)
        out.append(prediction.probabilities)
    return out


def test_ids_need_not_be_consecutive(small) -> None:
    outputs = run(small, frames_of(5))
    assert [len(p) for p in outputs] == [2, 2, 3, 3]
    assert small.ids == [3, 7]
    assert all(torch.allclose(p.sum(0), torch.ones(49, 65), atol=1e-5) for p in outputs)


@pytest.mark.parametrize("limit", [0, 0.2, float("inf")])
def test_feature_cache_changes_nothing(small, limit: float) -> None:
    frames = frames_of(5)
    plain = run(small, frames)
    small.feature_cache = FeatureCache(limit)
    for _ in range(2):  # two directions over one video
        assert all(torch.equal(a, b) for a, b in zip(run(small, frames), plain))
    assert (small.feature_cache.hits > 0) == (limit == float("inf"))


@pytest.mark.usefixtures("float64")
def test_flipped_run_sees_a_flipped_world(small) -> None:
    """On a mirrored video the flipped run gives the mirror of the plain run."""
    frames = frames_of(3)
    mirrored = [Frame(f.image.flip(-1), f.index) for f in frames]
    flipping = CFBIPropagator(small.network, small.preprocess, flip=True)
    del flipping.runs[0]
    plain = run(small, frames)
    flipping.reset((49, 65))
    labels = torch.zeros(49, 65, dtype=torch.int64)
    labels[10:30, 10:30] = 7
    flipping.commit(labels.flip(-1), [7], frame=mirrored[0])
    found = flipping.predict(mirrored[1]).probabilities
    assert torch.allclose(found.flip(-1), plain[0], atol=1e-6)


def test_references_have_a_limit(small) -> None:
    small.max_references = 2
    frames = frames_of(6)
    small.reset((49, 65))
    for t, frame in enumerate(frames):
        labels = small.predict(frame).label_map.clone()
        labels[t * 8 : t * 8 + 5, :9] = t + 1
        small.commit(labels, [t + 1])
    assert len(small._references) == 2
    assert small.ids == [1, 2, 3, 4, 5, 6]


def test_a_corrected_frame_is_a_reference_for_what_was_given(small) -> None:
    """Its pixels are evidence for the corrected object and the background, not for the others."""
    frames = frames_of(4)
    labels = torch.zeros(49, 65, dtype=torch.int64)
    labels[5:15, 5:25], labels[25:40, 10:30] = 3, 7
    small.reset((49, 65))
    small.commit(labels, [3, 7], frame=frames[0])

    def far_from_object_3() -> torch.Tensor:
        """Distance of the upper left piece of frame 2 to the nearest pixel of object 3."""
        small.predict(frames[2])
        (run,) = small.runs
        return global_distances(small._current[run].embedding, small._pixels[run])[1, 2:4, 9:14]

    small.predict(frames[1])
    given = torch.zeros_like(labels)
    given[5:20, 30:60], given[25:40, 10:30] = 3, 7
    small.commit(given)
    before = far_from_object_3()
    small.predict(frames[1])
    small.commit(given, corrected=[3])
    after = far_from_object_3()
    assert (after <= before).all() and after.mean() < 0.6 * before.mean()
    assert len(small._references) == 2
    assert set(small._references[1].labels.unique().tolist()) == {-1, 0, 3}


def test_corrections_have_a_limit_and_entering_frames_stay(small) -> None:
    small.max_corrections = 3
    frames = frames_of(8)
    labels = torch.zeros(49, 65, dtype=torch.int64)
    labels[10:30, 10:30] = 7
    small.reset((49, 65))
    small.commit(labels, [7], frame=frames[0])
    for frame in frames[1:]:
        small.predict(frame)
        small.commit(labels, corrected=[7])
    assert [len(r.entered) for r in small._references] == [1, 0, 0, 0]
    small.remove([7])
    assert small._references == [] and small.predict(frames[0]).ids == []


def test_a_removed_object_is_background(small) -> None:
    frames = frames_of(3)
    labels = torch.zeros(49, 65, dtype=torch.int64)
    labels[5:15, 5:25] = 3
    small.reset((49, 65))
    small.commit(labels, [3], frame=frames[0])
    small.predict(frames[1])
    labels[25:40, 10:30] = 7
    small.commit(labels, [7])
    small.remove([3])
    assert small.predict(frames[2]).ids == [7]
    (reference,) = small._references  # the first frame showed nobody else
    assert set(reference.labels.unique().tolist()) == {0, 7}


@pytest.mark.parametrize("objects", [0, 20])
def test_no_object_and_many(small, objects: int) -> None:
    frames = frames_of(2)
    labels = torch.zeros(49, 65, dtype=torch.int64)
    labels[0, :objects] = torch.arange(1, objects + 1)  # one pixel each: gone at stride 4
    small.reset((49, 65))
    small.commit(labels, range(1, objects + 1), frame=frames[0])
    prediction = small.predict(frames[1])
    assert prediction.probabilities.shape == (objects + 1, 49, 65)
    assert prediction.probabilities.isfinite().all()


@pytest.mark.parametrize("size", [(31, 45), (50, 64), (17, 17)])
def test_odd_sizes(small, size: tuple[int, int]) -> None:
    frames = frames_of(2, size)
    labels = torch.zeros(size, dtype=torch.int64)
    labels[:9, :9] = 1
    small.reset(size)
    small.commit(labels, [1], frame=frames[0])
    assert small.predict(frames[1]).label_map.shape == size


def test_vanished_object_keeps_its_channel(small) -> None:
    """An object that is committed as absent stays known and may return by its reference."""
    frames = frames_of(4)
    labels = torch.zeros(49, 65, dtype=torch.int64)
    labels[10:30, 10:30] = 5
    small.reset((49, 65))
    small.commit(labels, [5], frame=frames[0])
    small.predict(frames[1])
    small.commit(torch.zeros_like(labels))  # decided: gone
    prediction = small.predict(frames[2])
    assert prediction.ids == [5]
    assert prediction.probabilities.isfinite().all()
    small.commit(labels)  # and back
    assert small.predict(frames[3]).ids == [5]
    assert len(small._references) == 1
