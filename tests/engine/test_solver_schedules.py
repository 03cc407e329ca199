"""Optimisers, parameter groups, schedules against closed forms, clipping, averaging."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_system import tiny_cfg
from torch import nn

from vis_projects.engine.model_average import ModelAverage
from vis_projects.engine.solver import (
    build_clipping,
    build_lr_scheduler,
    build_optimizer,
    parameter_groups,
    resolve_epochs,
)
from vis_projects.structures import InputError


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(1, 2, 1)
        self.norm = nn.LayerNorm(2)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(3))
        self.frozen = nn.Linear(1, 1).requires_grad_(False)


def cfg_of(*opts):
    return tiny_cfg("unused", *opts)


def rates(cfg, count=None):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    found = []
    for _ in range(count or cfg.SOLVER.MAX_ITER):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_groups_of_parameters():
    cfg = cfg_of(
        *("SOLVER.BASE_LR", 1.0, "SOLVER.WEIGHT_DECAY", 0.1, "SOLVER.WEIGHT_DECAY_NORM", 0.0),
        *("SOLVER.WEIGHT_DECAY_BIAS", 0.0, "SOLVER.BACKBONE_MULTIPLIER", 0.1),
        *("SOLVER.NO_DECAY", "('relative_position_bias_table',)"),
    )
    model = Parts()
    names = {id(p): n for n, p in model.named_parameters()}
    found = {
        names[id(p)]: (g["lr"], g["weight_decay"])
        for g in parameter_groups(cfg, model)
        for p in g["params"]
    }
    assert found == {
        "backbone.weight": (0.1, 0.1),
        "backbone.bias": (0.1, 0.0),
        "norm.weight": (1.0, 0.0),
        "norm.bias": (1.0, 0.0),
        "relative_position_bias_table": (1.0, 0.0),
    }


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_optimisers_equal_torchs(name):
    cfg = cfg_of("SOLVER.OPTIMIZER", name, "SOLVER.AMSGRAD", True, "SOLVER.WEIGHT_DECAY", 0.1)
    torch.manual_seed(0)
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    other.load_state_dict(model.state_dict())
    optimizer = build_optimizer(cfg, model)
    if name == "SGD":
        plain = torch.optim.SGD(other.parameters(), 0.01, momentum=0.9, weight_decay=0.1)
    else:
        kind = getattr(torch.optim, name)
        plain = kind(other.parameters(), 0.01, weight_decay=0.1, amsgrad=True)
    for k in range(4):
        for net, opt in ((model, optimizer), (other, plain)):
            opt.zero_grad()
            (net(torch.full((1, 3), float(k))) ** 2).sum().backward()
            opt.step()
    torch.testing.assert_close(model.weight, other.weight, rtol=0, atol=0)


def test_wrong_options_are_named():
    with pytest.raises(InputError, match="SOLVER.OPTIMIZER 'Adagrad'"):
        build_optimizer(cfg_of("SOLVER.OPTIMIZER", "Adagrad"), Parts())
    with pytest.raises(InputError, match="frozen"):
        build_optimizer(cfg_of(), nn.Linear(1, 1).requires_grad_(False))
    with pytest.raises(InputError, match="LR_SCHEDULER_NAME 'Zigzag'"):
        rates(cfg_of("SOLVER.LR_SCHEDULER_NAME", "Zigzag"))
    with pytest.raises(InputError, match="CLIP_TYPE 'some'"):
        build_clipping(
            cfg_of("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "some")
        )
    with pytest.raises(InputError, match="EPOCHS"):
        resolve_epochs(cfg_of("SOLVER.EPOCH_STEPS", "(2,)"), 10)


def test_poly_schedule():
    cfg = cfg_of(
        *("SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR", "SOLVER.MAX_ITER", 50),
        *("SOLVER.WARMUP_ITERS", 10, "SOLVER.WARMUP_FACTOR", 0.1, "SOLVER.BASE_LR_END", 0.001),
    )
    for k, rate in enumerate(rates(cfg)):
        expected = max(0.01 * (1 - k / 50) ** 0.9, 0.001)
        if k < 10:
            expected = 0.001 + (0.01 * 0.8**0.9 - 0.001) * k / 10
        assert rate == pytest.approx(expected, rel=1e-9), k


def test_flat_then_exponential_schedule():
    """SRNet, 4.1: lr(k) = 1e-3 before F, then 1e-3 * 0.01^((k - F) / (K - F)); scaled down."""
    cfg = cfg_of(
        *("SOLVER.LR_SCHEDULER_NAME", "FlatExponentialLR", "SOLVER.MAX_ITER", 160),
        *("SOLVER.FLAT_ITERS", 60, "SOLVER.WARMUP_ITERS", 0, "SOLVER.BASE_LR", 1e-3),
    )
    found = rates(cfg, 161)
    for k, rate in enumerate(found):
        expected = 1e-3 if k < 60 else 1e-3 * 0.01 ** ((k - 60) / 100)
        assert rate == pytest.approx(expected, rel=1e-9), k
    assert found[160] == pytest.approx(1e-5)


def test_cosine_has_a_floor():
    cfg = cfg_of(
        *("SOLVER.MAX_ITER", 40, "SOLVER.WARMUP_ITERS", 0, "SOLVER.BASE_LR_END", 0.0002),
    )
    for k, rate in enumerate(rates(cfg)):
        expected = 0.0002 + 0.5 * (0.01 - 0.0002) * (1 + math.cos(math.pi * k / 40))
        assert rate == pytest.approx(expected, rel=1e-9)


def test_steps_by_epoch():
    cfg = cfg_of(
        *("SOLVER.EPOCHS", 4, "SOLVER.EPOCH_STEPS", "(2, 3)", "SOLVER.IMS_PER_BATCH", 4),
        *("SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "SOLVER.WARMUP_ITERS", 0),
    )
    cfg = resolve_epochs(cfg, 18)  # five iterations, the last one smaller in a usual loader
    assert cfg.SOLVER.MAX_ITER == 20 and cfg.SOLVER.STEPS == (10, 15)
    expected = [0.01 * 0.1 ** ((k >= 10) + (k >= 15)) for k in range(20)]
    assert rates(cfg) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["full_model", "norm", "value"])
def test_clipping(kind):
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    a.grad, b.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    cfg = cfg_of(
        *("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", kind),
        *("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 1.0),
    )
    norm = build_clipping(cfg)([a, b])
    expected = {"full_model": (0.6, 0.8), "norm": (1.0, 1.0), "value": (1.0, 1.0)}[kind]
    assert (a.grad[0].item(), b.grad[0].item()) == pytest.approx(expected, rel=1e-5)
    if kind == "full_model":
        assert norm.item() == pytest.approx(5.0)
    assert build_clipping(cfg_of()) is None


def test_average_is_the_closed_form():
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(2.0)
    average = ModelAverage(model, decay=0.9, warmup=False)
    expected = 2.0
    for k in range(5):
        with torch.no_grad():
            model.weight.fill_(float(k))
        average.update()
        expected = 0.9 * expected + 0.1 * k
    assert average.average["weight"].item() == pytest.approx(expected, rel=1e-6)
    with average.applied():
        assert model.weight.item() == pytest.approx(expected, rel=1e-6)
    assert model.weight.item() == 4.0

    restored = ModelAverage(model, decay=0.9, warmup=False)
    restored.load_state_dict(average.state_dict())
    assert restored.updates == 5 and restored.average["weight"].item() == pytest.approx(expected)


def test_average_identities():
    """Constant weights average to themselves; a decay of 0 follows the weights."""
    model = nn.Linear(2, 2)
    for decay in (0.0, 0.5, 0.999):
        average = ModelAverage(model, decay=decay)
        for _ in range(3):
            average.update()
        torch.testing.assert_close(average.average["weight"], model.weight.data)
    average = ModelAverage(model, decay=0.0)
    with torch.no_grad():
        model.weight.add_(1.0)
    average.update()
    torch.testing.assert_close(average.average["weight"], model.weight.data, rtol=0, atol=0)
    assert set(average.model_state()) == set(model.state_dict())
