"""``MODEL.COMPILE``: per-frame networks are traced whole, and half precision is chosen by speed."""

from __future__ import annotations

import shutil
import warnings

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY

from vis_projects.config import choose_dtype, load_config
from vis_projects.engine.benchmark import moving_boxes
from vis_projects.structures import Frame, InputError, VideoInfo, device
from vis_projects.weights import build_for_test

SIZE = (64, 96)
CONFIGS = [
    "configs/quickstart.yaml",
    "configs/srnet/quickstart_synthetic.yaml",
    "configs/frtm/R18_fast_davis2017.yaml",
]
PLAIN = ["MODEL.DEVICE", "cpu", "MODEL.ALLOW_MISSING_WEIGHTS", "True", "MODEL.WEIGHTS", ""]


def build(config: str, *opts: str):
    own = ["MODEL.FRTM.BACKBONE_WEIGHTS", ""] if "frtm" in config else []
    torch.manual_seed(0)
    return build_for_test(load_config(config, [*PLAIN, *own, *opts]))[0]


def run(model) -> list[torch.Tensor]:
    images, labels = moving_boxes(SIZE, 1, frames=3)
    model.start_video(VideoInfo(SIZE, None, model.task, keep_results=False))
    out = []
    for t, image in enumerate(images):
        masks = labels[0] if model.takes_masks and t == 0 else None
        frame = Frame(torch.from_numpy(image).permute(2, 0, 1), t)
        out.append(torch.as_tensor(model.step(frame, masks).label_map()))
    return out


@pytest.mark.slow  # Dynamo takes its time
@pytest.mark.parametrize("config", CONFIGS)
def test_networks_are_traced_whole_and_without_a_warning(config):
    """One graph per network and size, no break (fullgraph), nothing that Dynamo complains of."""
    plain, traced = build(config), build(config)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    networks = traced.frame_networks()
    for network in networks:
        network.compile(fullgraph=True, dynamic=False, backend="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = run(traced)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2 * len(networks)
    for a, b in zip(found, run(plain)):
        assert (a != b).float().mean() < 0.01


def test_a_missing_compiler_is_one_line(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"MODEL.COMPILE needs a C\+\+ compiler") as caught:
        build(CONFIGS[0], "MODEL.COMPILE", "True")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="MODEL.COMPILE: CopyFirst names no networks"):
        monkeypatch.undo()
        monkeypatch.setattr(shutil, "which", lambda name: name)
        build("configs/copy_first/davis2016.yaml", "MODEL.COMPILE", "True")


@pytest.fixture
def accurate(monkeypatch):
    """As if the system of the first config had been measured to keep its score."""
    system = META_ARCH_REGISTRY.get(load_config(CONFIGS[0]).MODEL.META_ARCHITECTURE)
    monkeypatch.setattr(system, "half_precision_keeps_score", True)
    return system


def test_half_precision_is_taken_where_it_is_faster_and_as_good(monkeypatch, caplog, accurate):
    for half, keeps, wanted in (
        (100, True, "float32"),
        (300, True, "bfloat16"),
        (300, False, "float32"),
    ):
        monkeypatch.setattr(accurate, "half_precision_keeps_score", keeps)
        device._fastest_on_this_cpu.cache_clear()
        speed = lambda dtype, half=half: half if dtype == torch.bfloat16 else 200.0  # noqa: E731
        monkeypatch.setattr(device, "_convolution_speed", speed)
        monkeypatch.setattr(
            torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True, raising=False
        )
        with caplog.at_level("INFO"):
            cfg = load_config(CONFIGS[0], ["MODEL.DEVICE", "cpu", "MODEL.INFERENCE_DTYPE", "auto"])
        assert wanted == cfg.MODEL.INFERENCE_DTYPE and f"auto: {wanted}" in caplog.text
        caplog.clear()
    device._fastest_on_this_cpu.cache_clear()


def test_commands_choose_only_what_nobody_named(monkeypatch, accurate):
    monkeypatch.setattr(device, "_fastest_on_this_cpu", lambda: ("bfloat16", "test"))
    plain = load_config(CONFIGS[0], ["MODEL.DEVICE", "cpu"])
    assert plain.MODEL.INFERENCE_DTYPE == "float32"  # training and evaluation stay there
    choose_dtype(plain)
    assert plain.MODEL.INFERENCE_DTYPE == "bfloat16"
    named = ["MODEL.DEVICE", "cpu", "MODEL.INFERENCE_DTYPE", "float32"]
    cfg = load_config(CONFIGS[0], named)
    choose_dtype(cfg, named)
    assert cfg.MODEL.INFERENCE_DTYPE == "float32"
