"""FeatureMatch: matching against its definition, the memory, corrections."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from vis_projects.config import load_config
from vis_projects.modeling.matching import Remembered, joint_features, propagate, top_columns
from vis_projects.structures import ArraySource, Frame, InputError, VideoInfo

CONFIG = "configs/feature_match/lite0.yaml"
TINY = ["MODEL.TIMM.NAME", "resnet10t", "MODEL.TIMM.PRETRAINED", "False", "MODEL.TIMM.STANDARDISE",
        "", "INPUT.MIN_SIZE_TEST", "0"]  # fmt: skip


def tiny(*opts):
    torch.manual_seed(0)
    return build_model(load_config(CONFIG, [*TINY, *(str(o) for o in opts)])).eval()


def slow_propagate(query, references, previous, *, top_k, sharpness, window):
    """One cell after the other."""
    _, h, w = query.shape
    out = torch.zeros(len(previous.labels), h, w, dtype=query.dtype)
    for y in range(h):
        for x in range(w):
            found = []
            for frame in (*references, previous):
                for v in range(h):
                    for u in range(w):
                        far = max(abs(v - y), abs(u - x)) > window
                        if frame is previous and window and far:
                            continue
                        similar = (query[:, y, x] * frame.features[:, v, u]).sum()
                        found.append((float(similar), frame.labels[:, v, u]))
            found.sort(key=lambda f: -f[0])
            values = torch.tensor([f[0] for f in found[:top_k]], dtype=query.dtype)
            for share, (_, labels) in zip(torch.softmax(sharpness * values, 0), found):
                out[:, y, x] += share * labels
    return out


@pytest.mark.parametrize("window", [0, 1, 3])
def test_propagation_is_the_definition_in_any_chunks(window):
    torch.manual_seed(1)
    shape = {"dtype": torch.float64}
    query = torch.randn(5, 4, 6, **shape)
    memory = [Remembered(torch.randn(5, 4, 6, **shape), torch.rand(3, 4, 6, **shape))
              for _ in range(3)]  # fmt: skip
    options = {"top_k": 4, "sharpness": 3.0, "window": window}
    want = slow_propagate(query, memory[:2], memory[2], **options)
    for chunk in (32.0, 1e-9):
        got = propagate(query, memory[:2], memory[2], **options, chunk_mb=chunk)
        assert torch.allclose(got, want, atol=1e-12)


@pytest.mark.parametrize(
    "shape,count", [((7, 400), 5), ((3, 403), 5), ((4, 9), 5), ((2, 3), 5), ((5, 70), 1)]
)
def test_the_largest_columns_are_those_of_topk(shape, count):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    value, index = top_columns(x, count)
    wanted = x.topk(min(count, shape[1]), 1)
    assert torch.equal(value, wanted.values) and torch.equal(index, wanted.indices)


def test_joint_features_weigh_cosines():
    torch.manual_seed(0)
    maps = {"res3": torch.randn(1, 4, 6, 8), "res4": torch.randn(1, 7, 3, 4)}
    x = joint_features(maps, ("res3", "res4"), (0.7, 1.0))
    assert x.shape == (11, 6, 8)
    assert torch.allclose((x * x).sum(0), torch.full((6, 8), 1.49))


def moving_square(length=5, size=(64, 96)):
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 60, (*size, 3))
    patch = rng.integers(150, 255, (24, 24, 3)) * [1, 0.2, 0.2]
    frames, masks = [], []
    for t in range(length):
        frame, mask = ground.copy(), np.zeros(size, np.int64)
        frame[20:44, 16 + 6 * t : 40 + 6 * t] = patch
        mask[20:44, 16 + 6 * t : 40 + 6 * t] = 1
        frames.append(frame.astype(np.uint8))
        masks.append(torch.from_numpy(mask))
    return np.stack(frames), masks


def test_a_square_is_followed_even_with_random_features():
    frames, masks = moving_square()
    labels = tiny().run_video(ArraySource(frames), {0: masks[0]}).label_maps()
    last = torch.as_tensor(np.asarray(list(labels)[-1])) == 1
    both, either = (last & (masks[-1] == 1)).sum(), (last | (masks[-1] == 1)).sum()
    assert both / either > 0.6


def test_memory_is_bounded_and_the_first_reference_stays():
    frames, masks = moving_square(8)
    model = tiny("MODEL.FEATURE_MATCH.MAX_REFERENCES", 3)
    model.start_video(VideoInfo((64, 96)))
    first = None
    for t, frame in enumerate(frames):
        mask = masks[t] * (t + 1)  # a new id each time
        model.step(Frame(torch.from_numpy(frame).permute(2, 0, 1), t), mask)
        memory = model.propagator.memory.references
        first = first or memory[0]
        assert len(memory) <= 3 and memory[0] is first
    assert model.propagator.ids == list(range(1, 9))


def test_a_known_id_is_corrected_and_remembered():
    frames, masks = moving_square(3)
    model = tiny()
    model.start_video(VideoInfo((64, 96)))
    images = [torch.from_numpy(f).permute(2, 0, 1) for f in frames]
    model.step(Frame(images[0], 0), {1: masks[0] == 1})
    right = torch.zeros(64, 96, dtype=torch.bool)
    right[50:60, 70:90] = True
    result = model.step(Frame(images[1], 1), {1: right, 2: torch.zeros(64, 96, dtype=torch.bool)})
    assert result.instances.pred_ids.tolist() == [1]  # an empty mask starts nothing
    assert torch.equal(result.instances.pred_masks[0].cpu(), right)
    assert len(model.propagator.memory.references) == 2


def test_a_committed_prediction_stays_soft_and_a_change_counts():
    frames, masks = moving_square(3)
    propagator = tiny().propagator
    propagator.reset((64, 96))
    images = [Frame(torch.from_numpy(f).permute(2, 0, 1), t) for t, f in enumerate(frames)]
    propagator.commit(masks[0], [1], frame=images[0])
    labels = propagator.predict(images[1]).label_map
    soft = propagator._soft
    changed = labels.clone()
    changed[:8, :8] = 1
    propagator.commit(labels)
    assert torch.equal(propagator.memory.previous.labels, soft)
    propagator.predict(images[1])
    propagator.commit(changed)
    assert propagator.memory.previous.labels[1, 0, 0] == 1


def test_bad_options_are_named():
    with pytest.raises(InputError, match="LEVELS.*res9"):
        tiny(
            "MODEL.FEATURE_MATCH.LEVELS", "('res9',)", "MODEL.FEATURE_MATCH.LEVEL_WEIGHTS", "(1.0,)"
        )
    with pytest.raises(InputError, match="LEVELS"):
        tiny("MODEL.FEATURE_MATCH.LEVEL_WEIGHTS", "(1.0,)")
    with pytest.raises(InputError, match="TOP_K"):
        tiny("MODEL.FEATURE_MATCH.TOP_K", 0)
