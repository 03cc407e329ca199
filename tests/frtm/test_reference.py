"""The fast version against the slow, obvious one."""

from __future__ import annotations

import fill
import numpy as np
import pytest
import torch

from vis_projects.frtm.backbone import ResNetFeatures
from vis_projects.frtm.pixel_weights import pixel_weights
from vis_projects.frtm.score_stencil import ScoreStencil
from vis_projects.frtm.segmentation_network import SegmentationNetwork
from vis_projects.frtm.target_learner import TargetLearner, TargetOptions, collapse, learn_first
from vis_projects.frtm.target_model import JointProblem, TargetModel, weighted_targets
from vis_projects.frtm.tracker import ObjectTracker
from vis_projects.modeling import Preprocess
from vis_projects.structures import Frame

from .reference import (
    AutogradGaussNewton,
    PlainBackbone,
    PlainNetwork,
    PlainTracker,
    data_residuals,
    root_pixel_weights,
)

MILD = {"filter_reg": (2.0, 6.0), "precondition": (4.0, 36.0), "cg_forget_rate": 5.0}


def filled(module: torch.nn.Module, prefix: str = "") -> torch.nn.Module:
    state = {
        k: torch.from_numpy(fill.values(prefix + k, tuple(v.shape)).copy()).to(v.dtype)
        for k, v in module.state_dict().items()
    }
    module.load_state_dict(state)
    return module.eval()


def problem(seed: int = 0, samples: int = 4):
    """Features (K, C, h, w), masks (K, 1, H, W), filters; odd sizes, float64."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(samples, 12, 5, 7, generator=rng, dtype=torch.float64)
    y = torch.zeros(samples, 1, 71, 107, dtype=torch.float64)
    for k in range(samples):
        y[k, 0, 5 + 3 * k : 30 + 8 * k, 20 : 50 + 9 * k] = 1
    model = TargetModel.random(1, 12, 6, generator=rng).to(torch.float64)
    return x, y, model


@pytest.mark.parametrize("variant", ["polak_ribiere", "fletcher_reeves"])
def test_optimiser_equals_automatic_differentiation(variant):
    x, y, model = problem()
    options = TargetOptions(
        cg_variant=variant, dtype=torch.float64, init_steps=(3, 4), update_steps=(3,), **MILD
    )
    stencil = ScoreStencil(y.shape[-2:], x.shape[-2:], dtype=torch.float64)
    first = learn_first(model, x[:, None], y, stencil, options)
    learner = TargetLearner([1], first, options)

    g = torch.tensor([2.0, 1, 1, 1], dtype=torch.float64) / 5
    slow = AutogradGaussNewton(
        options.precondition, fletcher_reeves=variant == "fletcher_reeves", forget=0.9**5
    )
    residuals = data_residuals(x, y, root_pixel_weights(y), g, options.filter_reg)
    project, weight = slow.run(residuals, list(model.state().values()), options.init_steps)
    state = first.model.state()
    assert (state["project.weight"] - project).abs().max() < 1e-10
    assert (state["filter.weight"] - weight).abs().max() < 1e-10

    slow = AutogradGaussNewton(
        options.precondition[1:], fletcher_reeves=variant == "fletcher_reeves", forget=0.9**5
    )
    z = torch.nn.functional.conv2d(x, project)
    residuals = data_residuals(z, y, root_pixel_weights(y), g, options.filter_reg[1:])
    (weight,) = slow.run(residuals, [weight], options.update_steps)
    assert (learner.model.state()["filter.weight"] - weight).abs().max() < 1e-10


def test_loss_is_the_residuals_square():
    x, y, model = problem()
    options = TargetOptions(dtype=torch.float64, **MILD)
    stencil = ScoreStencil(y.shape[-2:], x.shape[-2:], dtype=torch.float64)
    g = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    targets = weighted_targets(g[:, None], *collapse(y, stencil, options))
    got = JointProblem(model, x[:, None], targets, options.filter_reg).loss()[:, 0]
    parts = data_residuals(x, y, root_pixel_weights(y), g, options.filter_reg)(
        list(model.state().values())
    )
    wanted = torch.stack([p.square().sum() for p in parts])
    assert (got / wanted - 1).abs().max() < 1e-10


@pytest.mark.parametrize("image,cells", [((48, 64), (3, 4)), ((50, 61), (4, 4)), ((7, 30), (1, 2))])
def test_stencil_equals_the_upsampling_matrix(image, cells):
    stencil = ScoreStencil(image, cells, dtype=torch.float64)
    h, w = cells
    q = torch.rand(image, dtype=torch.float64)
    eye = torch.eye(h * w, dtype=torch.float64).view(-1, 1, h, w)
    up = torch.nn.functional.interpolate(eye, image, mode="bilinear").flatten(1)  # (hw, HW)
    dense = (up * q.flatten()) @ up.T
    nine = stencil.couplings(q)
    for a in range(h * w):
        for b in range(h * w):
            dy, dx = b // w - a // w, b % w - a % w
            if max(abs(dy), abs(dx)) <= 1:
                got = nine[3 * (dy + 1) + dx + 1, a // w, a % w]
                assert got == pytest.approx(dense[a, b].item(), abs=1e-10)
            else:
                assert dense[a, b] == 0
    assert (stencil.downsum(q).flatten() - up @ q.flatten()).abs().max() < 1e-10


@pytest.mark.usefixtures("float64")
def test_pixel_weights_mask_by_mask():
    masks = (
        torch.rand(6, 20, 30) < torch.tensor([0, 0.01, 0.05, 0.2, 0.9, 1.1]).view(6, 1, 1)
    ).double()
    assert (pixel_weights(masks).sqrt() - root_pixel_weights(masks)).abs().max() < 1e-10


@pytest.mark.usefixtures("float64")
@torch.no_grad()
def test_network_equals_its_drawing():
    network = filled(SegmentationNetwork(ResNetFeatures(18).channels), "refiner.")
    channels = ResNetFeatures(18).channels
    shapes = {"layer2": (14, 17), "layer3": (7, 9), "layer4": (4, 5), "layer5": (2, 3)}
    features = {k: torch.rand(1, channels[k], *s) for k, s in shapes.items()}
    scores = torch.randn(1, 1, 4, 5)
    got = network(scores, features, (53, 66))
    assert (got - PlainNetwork(network)(scores, features, (53, 66))).abs().max() < 1e-10


def test_whole_tracker_equals_the_plain_one():
    """Ten frames of one object, well-conditioned settings: an update and a full memory included."""
    options = TargetOptions(
        filter_reg=(0.5, 5.0), precondition=(0.25, 10.0), cg_forget_rate=5.0, capacity=7,
        init_steps=(3, 3), update_steps=(3,), interval=4, samples=3, width=16,
    )  # fmt: skip
    backbone = filled(ResNetFeatures(18))
    network = filled(SegmentationNetwork(backbone.channels), "refiner.")
    network.project.conv2.bias.data.fill_(0.2)
    frames = fill.frames(7, 10, 64, 80)
    mask = np.zeros((64, 80), bool)
    mask[16:44, 20:56] = True
    frames[:, 16:44, 20:56] = 255 - frames[:, 16:44, 20:56] // 2
    preprocess = Preprocess((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), frame_format="RGB")
    fast = ObjectTracker(backbone, network, preprocess=preprocess, options=options)
    fast.reset((64, 80))

    plain = PlainTracker(PlainBackbone(18, backbone.state_dict()), PlainNetwork(network), options)
    images, masks = fast.augment(frames[0], mask, 3, 1)
    plain.make_samples = lambda *_: (list(images), list(masks))
    model = fast.initial_model([1], 256).state()
    plain.start(frames[0], mask, list(model.values()), None)

    seen = []
    for t, frame in enumerate(frames):
        image = Frame(torch.from_numpy(frame).permute(2, 0, 1), t)
        with torch.no_grad():
            planes = fast.step(image, *(([1], torch.from_numpy(mask)[None]) if t == 0 else ()))
        got = fast.labels(planes) > 0
        if t:
            assert (got == plain.step(frame)).float().mean() > 0.995
            seen.append(got.float().mean().item())
    learner = fast.targets[0]
    assert max(seen) > 0.02  # something was segmented, so that something was learned
    assert (learner.memory.weights.values[0] - plain.g).abs().max() < 1e-5
    got = learner.model.state()["filter.weight"]
    assert (got - plain.weight).abs().max() < 2e-3 * plain.weight.abs().max()
