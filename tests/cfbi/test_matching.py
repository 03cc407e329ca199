"""Matching against the recorded figures and against the formulas as written."""

from __future__ import annotations

import math

import fill
import numpy as np
import pytest
import torch
from direct_matching import direct_global_distances, direct_windows

from vis_projects.cfbi.matching import (
    CHANNEL_ORDER,
    FAR,
    ReferencePixels,
    background_maps,
    global_distances,
    global_matching,
    local_matching,
    transform,
    window_distances,
)
from vis_projects.cfbi.propagator import CFBIPropagator
from vis_projects.config import load_config
from vis_projects.structures import InputError

TOLERANCE = 2e-6


def embedding(name: str, h: int, w: int, width: int) -> torch.Tensor:
    """The recorded embedding, (C, h, w)."""
    values = fill.values(name, (h, w, width)) * math.sqrt(w * width) * 0.08
    return torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1)


def close(found: torch.Tensor, wanted: np.ndarray) -> None:
    """Compare (N, h, w[, windows]) with a recorded (h, w, N[, windows])."""
    wanted = torch.from_numpy(np.moveaxis(wanted, 2, 0))
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= TOLERANCE


@pytest.fixture
def recorded(golden, recording):
    data = np.load(golden("cfbi/global_matching.npz"))
    prefix = "cfbi.a.global."
    shape = (*data["label_ref0"].shape, recording("cfbi/global_matching.npz")["width"])
    frames = {k: embedding(prefix + k, *shape) for k in ("query", "ref0", "ref1")}
    labels = [torch.from_numpy(data[f"label_ref{i}"]) for i in range(2)]
    return data, frames, labels, torch.from_numpy(np.asarray(data["bias"], np.float32)).flatten()


@pytest.mark.parametrize(
    ("name", "refs", "options", "chunk_mb"),
    [
        ("one_ref", (0,), {}, 256),
        ("one_ref_chunks4", (0,), {}, 0.01),
        ("two_refs", (0, 1), {}, 256),
        ("one_ref_atrous2", (0,), {"atrous_rate": 2}, 256),
        ("two_refs_atrous2", (0, 1), {"atrous_rate": 2}, 256),
        ("missing_object", (1,), {}, 256),
        ("train_one_ref", (0,), {}, 256),
    ],
)
def test_global_matching(recorded, name: str, refs, options: dict, chunk_mb: float) -> None:
    data, frames, labels, bias = recorded
    pixels = ReferencePixels.collect(
        [frames[f"ref{i}"] for i in refs], [labels[i] for i in refs], len(bias), **options
    )
    close(global_matching(frames["query"], pixels, bias, chunk_mb=chunk_mb), data[name])


def test_background_maps(recorded) -> None:
    data, *_ = recorded
    maps = torch.from_numpy(np.moveaxis(data["two_refs"], 2, 0))
    close(background_maps(maps), data["two_refs_background"])
    assert torch.equal(background_maps(maps[:1]), maps[:1])


def test_local_matching(golden, recording) -> None:
    data = np.load(golden("cfbi/local_matching.npz"))
    shape = (*data["label_prev"].shape, recording("cfbi/local_matching.npz")["width"])
    query, previous = (embedding(f"cfbi.a.local.{k}", *shape) for k in ("query", "prev"))
    labels = torch.from_numpy(data["label_prev"])
    bias = torch.from_numpy(np.asarray(data["bias"], np.float32)).flatten()

    def maps(**options) -> torch.Tensor:
        return local_matching(query, previous, labels, bias, **options).permute(0, 2, 3, 1)

    close(maps(), data["all_windows"])
    close(maps(), data["all_windows_loop"])
    close(maps(downsample=False), data["all_windows_no_downsample"])
    for window in CHANNEL_ORDER:
        close(maps(windows=[window])[..., 0], data[f"window_{window}"])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("size", [(1, 1), (5, 30), (30, 5), (13, 14)])
def test_rings_equal_the_window_tensor(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    query, previous = torch.randn(2, 8, *size)
    labels = torch.randint(0, 4, size)  # label 3 is no object
    windows = (4, 2, 6)
    found = window_distances(query, previous, labels, 3, windows)
    wanted = direct_windows(query, previous, labels, 3, windows)
    assert torch.allclose(found, wanted, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_sorted_pixels_equal_the_formula() -> None:
    torch.manual_seed(0)
    query, *references = torch.randn(3, 8, 9, 7)
    labels = list(torch.randint(0, 4, (2, 9, 7)))
    pixels = ReferencePixels.collect(references, labels, 3, dtype=torch.float64)
    found = global_distances(query, pixels, chunk_mb=0.01)
    wanted = direct_global_distances(query, references, labels, 3, chunks=3)
    assert torch.allclose(found, wanted, atol=1e-9)


def test_nothing_to_match_is_far() -> None:
    query = torch.randn(4, 3, 3)
    nobody = torch.full((3, 3), 7)
    pixels = ReferencePixels.collect([query], [nobody], 2)
    bias = torch.zeros(2)
    assert (global_matching(query, pixels, bias) == 1).all()
    assert (local_matching(query, query, nobody, bias) == 1).all()
    assert transform(torch.tensor([FAR]), torch.zeros(1)).item() == 1


def test_half_precision_is_of_matching_alone() -> None:
    """MATCHING_DTYPE float16: distances in half precision, maps close, networks untouched."""
    torch.manual_seed(0)
    query, reference = 0.1 * torch.randn(2, 100, 17, 21)  # the scale of trained embeddings
    labels = torch.randint(0, 3, (17, 21))
    labels[labels == 2] = 0  # object 2 has no pixel
    half = ReferencePixels.collect([reference], [labels], 3, dtype=torch.float16)
    assert half.keys.dtype == torch.float16
    plain = ReferencePixels.collect([reference], [labels], 3)
    bias = torch.tensor([0.3, -0.2, -0.2])
    found, wanted = (global_matching(query, p, bias) for p in (half, plain))
    assert found.dtype == torch.float32
    assert (found[2] == 1).all() and 0 < (found - wanted).abs().max() < 5e-3
    found, wanted = (
        local_matching(query, reference, labels, bias, dtype=d)
        for d in (torch.float16, torch.float32)
    )
    assert found.dtype == torch.float32 and 0 < (found - wanted).abs().max() < 5e-3

    cfg = load_config("configs/cfbi/R101_fast_ytvos2019.yaml")
    options = CFBIPropagator.from_config(cfg)
    assert options["network"].matching_dtype == torch.float16
    assert options["inference_dtype"] == torch.float32
    cfg.MODEL.CFBI.MATCHING_DTYPE = "bfloat16"
    with pytest.raises(InputError, match="MATCHING_DTYPE 'bfloat16'"):
        CFBIPropagator.from_config(cfg)
