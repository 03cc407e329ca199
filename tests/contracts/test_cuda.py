"""Every system on CUDA: float32 against the CPU, half precision, no wait in the steady state.

``benchmarks/gpu_check.sh`` runs these with the rest of what needs a GPU. With the device ``cpu``
the CPU is compared with itself, which tests the tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from pretended_device import NAME, pretended_device
from systems import CASES, SystemCase

from vis_projects.data import build_train_loader
from vis_projects.engine.benchmark import moving_boxes
from vis_projects.modeling import VideoModel
from vis_projects.structures import ArraySource, VideoInfo, VideoResult

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
# Systems whose frames need nothing from the device once an object is known.
STEADY = ("copy_first", "feature_match", "cfbi", "srnet", "frtm", "frtm_matching")
FRAMES = 6


@contextmanager
def full_precision() -> Iterator[None]:
    """No TF32: otherwise a comparison with the CPU says nothing."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [b.allow_tf32 for b in backends]
    for b in backends:
        b.allow_tf32 = False
    try:
        yield
    finally:
        for b, value in zip(backends, before):
            b.allow_tf32 = value


def run(model: VideoModel, case: SystemCase, frames: int = FRAMES) -> VideoResult:
    images, labels = moving_boxes(case.size, 2, frames=frames)
    source = ArraySource(images, size=case.size, image_format=model.input_format)
    return model.run_video(source, {0: labels[0]} if model.takes_masks else None)


def agreement(a: VideoResult, b: VideoResult) -> float:
    """Share of pixels on whose object two results agree; ids may differ where a system names."""
    same = [np.mean((x > 0) == (y > 0)) for x, y in zip(a.label_maps(), b.label_maps())]
    return float(np.mean(same))


@pytest.fixture(params=CASES, ids=lambda c: c.name)
def case(request) -> SystemCase:
    return request.param


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_float32_equals_the_cpu(case: SystemCase, device: str) -> None:
    model = case.build("cpu")
    model.inference_dtype = torch.float32
    wanted = run(model, case, 3)
    with full_precision():
        found = run(model.to(device), case, 3)
    assert found.length == wanted.length
    assert agreement(found, wanted) > 0.98


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_half_precision_trains(case: SystemCase, device: str) -> None:
    """Losses and gradients are numbers under autocast, with the loss scaled as training does."""
    if not case.overfit_steps:
        pytest.skip("does not train")
    model = case.build(device).train()
    batch = next(iter(build_train_loader(case.cfg(**{"DATALOADER.NUM_WORKERS": 0}))))
    dtype = torch.float16 if device == "cuda" else torch.bfloat16
    with torch.autocast(device, dtype):
        losses = model(batch)
    assert all(v.isfinite() for v in losses.values()), losses
    (sum(losses.values()) * 128.0).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def steps(model: VideoModel, case: SystemCase) -> Iterator[int]:
    """Step through a clip; yields before every frame."""
    images, labels = moving_boxes(case.size, 2, frames=FRAMES)
    model.start_video(VideoInfo(case.size, None, model.task, keep_results=False))
    for frame in ArraySource(images, size=case.size, image_format=model.input_format):
        yield frame.index
        model.step(frame, labels[0] if model.takes_masks and frame.index == 0 else None)
    model.reset()


@pytest.mark.parametrize("name", STEADY)
def test_steady_frames_do_not_wait(name: str) -> None:
    """On the pretended device: from the third frame on the host waits for nothing."""
    case = next(c for c in CASES if c.name == name)
    model = case.build()
    with pretended_device() as watch:
        model.to(NAME)
        for t in steps(model, case):
            if t == 2:
                watch.waits.clear()
    assert not watch.waits


@pytest.mark.gpu
@pytest.mark.parametrize("name", STEADY)
def test_steady_frames_do_not_wait_on_cuda(name: str) -> None:
    case = next(c for c in CASES if c.name == name)
    model = case.build("cuda")
    try:
        for t in steps(model, case):
            if t == 2:
                torch.cuda.set_sync_debug_mode("error")
    finally:
        torch.cuda.set_sync_debug_mode("default")
