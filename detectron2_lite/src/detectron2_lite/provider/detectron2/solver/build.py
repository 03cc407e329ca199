"""Optimiser, parameter groups, gradient clipping and schedules from a config."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    StepWithFixedGammaParamScheduler,
)
from fvcore.common.param_scheduler import (
    ParamScheduler as _ParamScheduler,
)
from torch import nn

from .lr_scheduler import LRMultiplier, LRScheduler, WarmupParamScheduler

_NORMS = (
    nn.modules.batchnorm._NormBase,  # batch, synchronised and instance norms
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Return SGD with the parameter groups and the clipping of ``cfg.SOLVER``."""
    solver = cfg.SOLVER
    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    return maybe_add_gradient_clipping(cfg, torch.optim.SGD)(
        groups,
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        weight_decay=solver.WEIGHT_DECAY,
        foreach=True,
    )


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: dict[str, dict[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Return parameter groups of all trainable parameters, each parameter once.

    ``weight_decay_norm`` applies to normalisation layers; ``bias_lr_factor`` and
    ``weight_decay_bias`` to parameters called ``bias``; ``lr_factor_func`` gets the full name;
    ``overrides`` maps the last part of a name to hyper-parameters. Groups with equal
    hyper-parameters are merged. ValueError if a factor needs ``base_lr`` and it is None.
    """
    overrides = {name: dict(values) for name, values in (overrides or {}).items()}
    bias: dict[str, float] = {}
    if bias_lr_factor is not None and bias_lr_factor != 1.0:
        if base_lr is None:
            raise ValueError("bias_lr_factor needs base_lr")
        bias["lr"] = base_lr * bias_lr_factor
    if weight_decay_bias is not None:
        bias["weight_decay"] = weight_decay_bias
    if bias:
        if "bias" in overrides:
            raise ValueError("give either bias_lr_factor/weight_decay_bias or overrides['bias']")
        overrides["bias"] = bias
    if lr_factor_func is not None and base_lr is None:
        raise ValueError("lr_factor_func needs base_lr")

    groups: list[dict[str, Any]] = []
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            group: dict[str, Any] = {"params": [parameter]}
            if base_lr is not None:
                group["lr"] = base_lr
            if weight_decay is not None:
                group["weight_decay"] = weight_decay
            if isinstance(module, _NORMS) and weight_decay_norm is not None:
                group["weight_decay"] = weight_decay_norm
            if lr_factor_func is not None:
                group["lr"] *= lr_factor_func(f"{module_name}.{name}")
            group.update(overrides.get(name, {}))
            groups.append(group)
    return reduce_param_groups(groups)


def reduce_param_groups(groups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge groups whose hyper-parameters are equal, in order of first appearance."""
    merged: dict[tuple, dict[str, Any]] = {}
    for group in groups:
        rest = {key: value for key, value in group.items() if key != "params"}
        entry = merged.setdefault(tuple(sorted(rest.items())), {**rest, "params": []})
        entry["params"].extend(group["params"])
    return list(merged.values())


def _clip_each(cfg: CfgNode) -> Callable[[Iterable[nn.Parameter]], None]:
    """Return a function that clips the gradient of every parameter by itself."""
    kind, value, norm_type = cfg.CLIP_TYPE, cfg.CLIP_VALUE, cfg.NORM_TYPE
    if kind not in ("value", "norm"):
        raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE must be 'value' or 'norm', not {kind!r}")

    def clip(parameters: Iterable[nn.Parameter]) -> None:
        for parameter in parameters:
            if kind == "value":
                nn.utils.clip_grad_value_(parameter, value)
            else:
                nn.utils.clip_grad_norm_(parameter, value, norm_type)

    return clip


def maybe_add_gradient_clipping(
    cfg: CfgNode, optimizer: torch.optim.Optimizer | type[torch.optim.Optimizer]
) -> Any:
    """Make ``step`` clip first if ``SOLVER.CLIP_GRADIENTS.ENABLED``.

    An optimiser is changed in place and returned; for a class a subclass is returned.
    """
    if not cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
        return optimizer
    is_instance = isinstance(optimizer, torch.optim.Optimizer)
    base = type(optimizer) if is_instance else optimizer
    assert issubclass(base, torch.optim.Optimizer), f"{base} is not an optimizer"
    clip = _clip_each(cfg.SOLVER.CLIP_GRADIENTS.clone())

    def step(self: torch.optim.Optimizer, closure: Callable | None = None) -> Any:
        clip(p for group in self.param_groups for p in group["params"] if p.grad is not None)
        return super(clipped, self).step(closure)

    clipped = type(base.__name__ + "WithGradientClip", (base,), {"step": step})
    if is_instance:
        optimizer.__class__ = clipped
        return optimizer
    return clipped


class _FixedGamma(StepWithFixedGammaParamScheduler):
    """Stays on the last value at the very end, where the table has no further entry."""

    def __call__(self, where: float) -> float:
        return super().__call__(min(where, 1.0 - 2 * self.WHERE_EPSILON))


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """Return the schedule ``SOLVER.LR_SCHEDULER_NAME``; ValueError for an unknown name."""
    solver = cfg.SOLVER
    name, length = solver.LR_SCHEDULER_NAME, solver.MAX_ITER
    schedule: _ParamScheduler
    if name == "WarmupMultiStepLR":
        steps = [step for step in solver.STEPS if step < length]
        if len(steps) != len(solver.STEPS):
            logging.getLogger(__name__).warning(
                "SOLVER.STEPS at or after SOLVER.MAX_ITER have no effect: %s", solver.STEPS
            )
        schedule = MultiStepParamScheduler(
            values=[solver.GAMMA**k for k in range(len(steps) + 1)],
            milestones=steps,
            num_updates=length,
        )
    elif name == "WarmupCosineLR":
        end = solver.BASE_LR_END / solver.BASE_LR
        assert 0.0 <= end <= 1.0, "SOLVER.BASE_LR_END must lie between 0 and SOLVER.BASE_LR"
        schedule = CosineParamScheduler(1, end)
    elif name == "WarmupStepWithFixedGammaLR":
        schedule = _FixedGamma(
            base_value=1.0, gamma=solver.GAMMA, num_decays=solver.NUM_DECAYS, num_updates=length
        )
    else:
        raise ValueError(f"unknown SOLVER.LR_SCHEDULER_NAME: {name}")
    schedule = WarmupParamScheduler(
        schedule,
        solver.WARMUP_FACTOR,
        min(solver.WARMUP_ITERS / length, 1.0),
        solver.WARMUP_METHOD,
        solver.RESCALE_INTERVAL,
    )
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=length)
