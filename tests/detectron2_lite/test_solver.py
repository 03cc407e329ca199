"""Schedules, parameter groups and gradient clipping of the solver."""

from __future__ import annotations

import json

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.solver import (
    LRMultiplier,
    build_lr_scheduler,
    build_optimizer,
    get_default_optimizer_params,
)
from detectron2.solver.build import maybe_add_gradient_clipping
from fvcore.common.param_scheduler import CosineParamScheduler
from torch import nn


def schedule_cfg(**solver):
    cfg = get_cfg()
    cfg.SOLVER.MAX_ITER = 200
    cfg.SOLVER.BASE_LR = 0.01
    cfg.SOLVER.WARMUP_ITERS = 20
    cfg.SOLVER.STEPS = (100, 150)
    for key, value in solver.items():
        cfg.SOLVER[key] = value
    return cfg


def one_weight(lr=0.01):
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)


CASES = {
    "lr_multistep": {},
    "lr_multistep_const": {
        "WARMUP_METHOD": "constant",
        "WARMUP_FACTOR": 0.1,
        "STEPS": (100, 150, 5000),
    },
    "lr_multistep_warm_into_step": {"WARMUP_ITERS": 120},
    "lr_cosine": {"LR_SCHEDULER_NAME": "WarmupCosineLR"},
    "lr_cosine_end_rescale": {
        "LR_SCHEDULER_NAME": "WarmupCosineLR",
        "BASE_LR_END": 0.001,
        "RESCALE_INTERVAL": True,
    },
    "lr_stepfixed": {"LR_SCHEDULER_NAME": "WarmupStepWithFixedGammaLR", "NUM_DECAYS": 3},
}


@pytest.mark.parametrize("name", CASES)
def test_schedules_equal_the_recorded_ones(name, golden):
    expected = dict(json.loads(golden("detectron2/small.json").read_text())[name])
    cfg = schedule_cfg(**CASES[name])
    optimizer = one_weight()
    scheduler = build_lr_scheduler(cfg, optimizer)
    for iteration in range(cfg.SOLVER.MAX_ITER):
        if iteration in expected:
            rate = optimizer.param_groups[0]["lr"]
            assert rate == pytest.approx(expected[iteration], rel=1e-5, abs=1e-12), iteration
        optimizer.step()
        scheduler.step()  # the last one must not raise either


def test_scheduler_state_is_the_position_only_and_restores_the_rate():
    optimizer = one_weight()
    scheduler = LRMultiplier(optimizer, CosineParamScheduler(1, 0), 50)
    for _ in range(17):
        optimizer.step()
        scheduler.step()
    state = scheduler.state_dict()
    assert state == {"base_lrs": [0.01], "last_epoch": 17}
    other = one_weight()
    resumed = LRMultiplier(other, CosineParamScheduler(1, 0), 50)
    resumed.load_state_dict(state)
    other.load_state_dict(optimizer.state_dict())
    for opt, sch in ((optimizer, scheduler), (other, resumed)):
        opt.step()
        sch.step()
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


@pytest.mark.lite
def test_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="Nonsense"):
        build_lr_scheduler(schedule_cfg(LR_SCHEDULER_NAME="Nonsense"), one_weight())
    with pytest.raises(ValueError, match="WARMUP_METHOD"):
        build_lr_scheduler(schedule_cfg(WARMUP_METHOD="cubic"), one_weight())


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.GroupNorm(2, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.tied = nn.Linear(4, 4)
        self.tied_again = self.tied


def grouped(groups, model):
    names = {id(p): n for n, p in model.named_parameters()}
    return {
        names[id(p)]: {k: v for k, v in g.items() if k != "params"}
        for g in groups
        for p in g["params"]
    }


@pytest.mark.lite
def test_parameter_groups():
    model = Tiny()
    groups = get_default_optimizer_params(
        model, base_lr=1.0, weight_decay=0.1, weight_decay_norm=0.0, bias_lr_factor=2.0
    )
    found = grouped(groups, model)
    assert set(found) == {f"{m}.{p}" for m in ("conv", "norm", "tied") for p in ("weight", "bias")}
    assert found["conv.weight"] == {"lr": 1.0, "weight_decay": 0.1}
    assert found["conv.bias"] == {"lr": 2.0, "weight_decay": 0.1}
    assert found["norm.weight"] == {"lr": 1.0, "weight_decay": 0.0}
    assert found["norm.bias"] == {"lr": 2.0, "weight_decay": 0.0}
    assert len(groups) == 4  # equal hyper-parameters share a group

    factors = get_default_optimizer_params(
        model, base_lr=1.0, lr_factor_func=lambda n: 0.1 if n.startswith("conv") else 1.0
    )
    assert grouped(factors, model)["conv.weight"]["lr"] == 0.1
    override = get_default_optimizer_params(model, overrides={"weight": {"weight_decay": 0.5}})
    assert grouped(override, model)["tied.weight"] == {"weight_decay": 0.5}
    assert grouped(override, model)["tied.bias"] == {}
    with pytest.raises(ValueError, match="base_lr"):
        get_default_optimizer_params(model, bias_lr_factor=2.0)


def test_optimizer_follows_the_config():
    cfg = get_cfg()
    cfg.SOLVER.NESTEROV = True
    optimizer = build_optimizer(cfg, Tiny())
    assert type(optimizer) is torch.optim.SGD
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.001, 0.9, 1e-4)
    assert group["nesterov"] is True
    assert optimizer.param_groups[1]["weight_decay"] == 0.0


@pytest.mark.parametrize("kind", ["value", "norm"])
@pytest.mark.parametrize("as_class", [True, False])
def test_each_parameter_is_clipped_by_itself(kind, as_class):
    cfg = get_cfg()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = kind
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.5
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    if as_class:
        optimizer = maybe_add_gradient_clipping(cfg, torch.optim.SGD)([a, b], lr=1.0)
    else:
        optimizer = maybe_add_gradient_clipping(cfg, torch.optim.SGD([a, b], lr=1.0))
    assert isinstance(optimizer, torch.optim.SGD)
    a.grad, b.grad = torch.tensor([3.0, 4.0]), torch.tensor([0.1, 0.2])
    optimizer.step()
    expected = torch.tensor([0.5, 0.5]) if kind == "value" else torch.tensor([0.3, 0.4])
    torch.testing.assert_close(-a.data, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(-b.data, torch.tensor([0.1, 0.2]))
    assert set(optimizer.state_dict()) == {"state", "param_groups"}
