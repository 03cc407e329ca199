"""Optimisers, parameter groups, schedules and gradient clipping from a config.

k is the iteration, K = SOLVER.MAX_ITER.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier, get_default_optimizer_params
from detectron2.solver import build_lr_scheduler as build_stock_scheduler
from fvcore.common.param_scheduler import ParamScheduler
from torch import nn

from ..structures import InputError

STOCK_SCHEDULES = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Return ``SOLVER.OPTIMIZER`` over the trainable parameters.

    Decay and rates per parameter: ``WEIGHT_DECAY_NORM`` for normalisation layers,
    ``WEIGHT_DECAY_BIAS`` and ``BIAS_LR_FACTOR`` for biases, none for ``NO_DECAY``,
    ``BACKBONE_MULTIPLIER`` times the rate for the backbone.

    Raises:
        InputError: an unknown optimiser, or nothing to train.
    """
    solver = cfg.SOLVER
    groups = parameter_groups(cfg, model)
    if not groups:
        raise InputError(f"{type(model).__name__} has no parameter to train: all are frozen")
    decay = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY}
    if solver.OPTIMIZER == "SGD":
        return torch.optim.SGD(groups, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV, **decay)
    if solver.OPTIMIZER in ("Adam", "AdamW"):
        kind = getattr(torch.optim, solver.OPTIMIZER)
        return kind(
            groups, betas=tuple(solver.BETAS), eps=solver.EPS, amsgrad=solver.AMSGRAD, **decay
        )
    raise InputError(f"SOLVER.OPTIMIZER {solver.OPTIMIZER!r} is unknown: use SGD, Adam or AdamW")


def parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict]:
    """Return torch parameter groups with ``lr`` and ``weight_decay``, equal ones merged."""
    solver = cfg.SOLVER

    def factor(name: str) -> float:
        return solver.BACKBONE_MULTIPLIER if "backbone" in name.split(".") else 1.0

    return get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        lr_factor_func=None if solver.BACKBONE_MULTIPLIER == 1.0 else factor,
        overrides={name: {"weight_decay": 0.0} for name in solver.NO_DECAY},
    )


class Polynomial(ParamScheduler):
    """max((1 - k / K)^power, floor)."""

    def __init__(self, power: float, floor: float = 0.0) -> None:
        self.power, self.floor = power, floor

    def __call__(self, where: float) -> float:
        return max((1.0 - min(where, 1.0)) ** self.power, self.floor)


class FlatExponential(ParamScheduler):
    """1 before ``flat`` (a fraction of K), then end^((where - flat) / (1 - flat)) (SRNet, 4.1)."""

    def __init__(self, flat: float, end: float) -> None:
        self.flat, self.end = flat, end

    def __call__(self, where: float) -> float:
        if where < self.flat or self.flat >= 1.0:
            return 1.0
        return self.end ** ((where - self.flat) / (1.0 - self.flat))


class WarmUp(ParamScheduler):
    """``schedule`` after a linear rise from factor * schedule(0) to its value at ``length``."""

    def __init__(self, schedule: ParamScheduler, factor: float, length: float) -> None:
        self.schedule, self.factor, self.length = schedule, factor, length

    def __call__(self, where: float) -> float:
        if where >= self.length:
            return self.schedule(where)
        first, last = self.factor * self.schedule(0.0), self.schedule(self.length)
        return first + (last - first) * where / self.length


def build_lr_scheduler(
    cfg: CfgNode, optimizer: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the schedule ``SOLVER.LR_SCHEDULER_NAME``, stepped once per iteration.

    Raises:
        InputError: an unknown name, or numbers that do not fit together.
    """
    solver = cfg.SOLVER
    name, length = solver.LR_SCHEDULER_NAME, solver.MAX_ITER
    if name in STOCK_SCHEDULES:
        return build_stock_scheduler(cfg, optimizer)
    if name == "WarmupPolyLR":
        schedule: ParamScheduler = Polynomial(
            solver.POLY_POWER, solver.BASE_LR_END / solver.BASE_LR
        )
    elif name == "FlatExponentialLR":
        if solver.EXPONENTIAL_END <= 0:
            raise InputError(
                f"SOLVER.EXPONENTIAL_END must be above 0, not {solver.EXPONENTIAL_END}"
            )
        schedule = FlatExponential(solver.FLAT_ITERS / length, solver.EXPONENTIAL_END)
    else:
        known = ", ".join((*STOCK_SCHEDULES, "WarmupPolyLR", "FlatExponentialLR"))
        raise InputError(f"SOLVER.LR_SCHEDULER_NAME {name!r} is unknown: use one of {known}")
    if solver.WARMUP_ITERS > 0:
        if solver.WARMUP_METHOD != "linear":
            raise InputError(f"{name} warms up linearly: set SOLVER.WARMUP_METHOD linear")
        warm = min(solver.WARMUP_ITERS / length, 1.0)
        schedule = WarmUp(schedule, solver.WARMUP_FACTOR, warm)
    return LRMultiplier(optimizer, schedule, length)


def resolve_epochs(cfg: CfgNode, dataset_length: int) -> CfgNode:
    """Return the config with ``EPOCHS`` and ``EPOCH_STEPS`` turned into iterations.

    An epoch has ceil(``dataset_length`` / IMS_PER_BATCH) iterations.

    Raises:
        InputError: EPOCH_STEPS without EPOCHS.
    """
    solver = cfg.SOLVER
    if solver.EPOCHS <= 0:
        if solver.EPOCH_STEPS:
            raise InputError("SOLVER.EPOCH_STEPS needs SOLVER.EPOCHS; without it, use SOLVER.STEPS")
        return cfg
    per_epoch = math.ceil(dataset_length / solver.IMS_PER_BATCH)
    frozen = cfg.is_frozen()
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.MAX_ITER = solver.EPOCHS * per_epoch
    if solver.EPOCH_STEPS:
        cfg.SOLVER.STEPS = tuple(epoch * per_epoch for epoch in solver.EPOCH_STEPS)
    if frozen:
        cfg.freeze()
    return cfg


Clip = Callable[[Iterable[nn.Parameter]], torch.Tensor | None]


def build_clipping(cfg: CfgNode) -> Clip | None:
    """Return a function that clips gradients as ``SOLVER.CLIP_GRADIENTS`` says, or None.

    "full_model" scales all gradients together so that their norm is at most CLIP_VALUE, and
    returns the norm before; "norm" does so for every parameter by itself; "value" clamps elements.

    Raises:
        InputError: an unknown CLIP_TYPE.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return None
    limit, norm_type = clip.CLIP_VALUE, clip.NORM_TYPE

    def full_model(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
        return nn.utils.clip_grad_norm_(parameters, limit, norm_type)

    def each_norm(parameters: Iterable[nn.Parameter]) -> None:
        for parameter in parameters:
            nn.utils.clip_grad_norm_(parameter, limit, norm_type)

    def each_value(parameters: Iterable[nn.Parameter]) -> None:
        nn.utils.clip_grad_value_(parameters, limit)

    kinds: dict[str, Clip] = {"full_model": full_model, "norm": each_norm, "value": each_value}
    if clip.CLIP_TYPE not in kinds:
        raise InputError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE {clip.CLIP_TYPE!r} is unknown: use {', '.join(kinds)}"
        )
    return kinds[clip.CLIP_TYPE]
