"""Learning target models: on the first frame, and from then on (FRTM, Algorithm 1).

Letters: N objects that start in the same frame, K samples, H x W pixels, h x w score cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..structures import InputError
from .backbone import LAYERS
from .gauss_newton import VARIANTS, GaussNewton
from .pixel_weights import MIN_PIXELS, pixel_weights
from .sample_memory import SampleMemory
from .score_stencil import ScoreStencil, collect
from .target_model import FilterProblem, JointProblem, TargetModel, weighted_targets

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class TargetOptions:
    """Settings of a target model; see ``MODEL.FRTM.TARGET`` for their meaning. ``lasting`` is
    ``MODEL.MAX_REFERENCES``."""

    layers: tuple[str, ...] = ("layer4",)
    width: int = 96
    filter_reg: tuple[float, float] = (1e-4, 1e-2)
    precondition: tuple[float, float] = (1e-4, 1e-2)
    init_steps: tuple[int, ...] = (5, 10, 10, 10)
    update_steps: tuple[int, ...] = (5,)
    cg_variant: str = "polak_ribiere"
    cg_forget_rate: float = 750.0
    pixel_weights: bool = True
    k_min: float = 0.1
    capacity: int = 80
    eta: float = 0.1
    samples: int = 5
    fill: str = "telea"
    interval: int = 8
    lasting: int = 8
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if self.cg_variant not in VARIANTS:
            raise ValueError(
                f"MODEL.FRTM.TARGET.CG_VARIANT {self.cg_variant!r}: use {' or '.join(VARIANTS)}"
            )
        if not 1 <= self.samples <= self.capacity:
            raise ValueError(
                f"MODEL.FRTM.TARGET: SAMPLES {self.samples} must lie between 1 and CAPACITY "
                f"{self.capacity}"
            )

    @classmethod
    def from_config(cls, cfg) -> TargetOptions:
        """Return the settings of inference."""
        frtm, target = cfg.MODEL.FRTM, cfg.MODEL.FRTM.TARGET
        if not target.LAYERS or not {*target.LAYERS} <= {*LAYERS}:
            raise InputError(
                f"MODEL.FRTM.TARGET.LAYERS {tuple(target.LAYERS)}: name some of {', '.join(LAYERS)}"
            )
        if frtm.TARGET_DTYPE not in _DTYPES:
            raise ValueError(f"MODEL.FRTM.TARGET_DTYPE {frtm.TARGET_DTYPE!r}: float32 or float64")
        return cls(
            layers=tuple(target.LAYERS),
            width=target.WIDTH,
            filter_reg=tuple(target.FILTER_REG),
            precondition=tuple(target.PRECONDITION),
            init_steps=tuple(target.INIT_STEPS),
            update_steps=tuple(target.UPDATE_STEPS),
            cg_variant=target.CG_VARIANT,
            cg_forget_rate=target.CG_FORGET_RATE,
            pixel_weights=target.PIXEL_WEIGHTS,
            k_min=target.K_MIN,
            capacity=target.CAPACITY,
            eta=target.ETA,
            samples=target.SAMPLES,
            fill=target.FILL,
            interval=frtm.UPDATE_INTERVAL,
            lasting=cfg.MODEL.MAX_REFERENCES,
            dtype=_DTYPES[frtm.TARGET_DTYPE],
        )

    def for_training(self, cfg) -> TargetOptions:
        """Return the settings of the target models of offline training."""
        own = cfg.MODEL.FRTM.TRAINING
        return replace(
            self,
            width=own.WIDTH,
            filter_reg=tuple(own.FILTER_REG),
            precondition=tuple(own.PRECONDITION),
            init_steps=tuple(own.INIT_STEPS),
            update_steps=tuple(own.UPDATE_STEPS),
            cg_variant=own.CG_VARIANT,
            cg_forget_rate=own.CG_FORGET_RATE,
            pixel_weights=own.PIXEL_WEIGHTS,
            capacity=own.CAPACITY,
            samples=own.SAMPLES,
            fill=own.FILL,
        )

    def optimizer(self, layers: slice) -> GaussNewton:
        """Return an optimiser of some of the two layers."""
        rate = self.cg_forget_rate
        return GaussNewton(
            self.precondition[layers], variant=self.cg_variant, forget=0.9**rate if rate else 0.0
        )


def collapse(
    labels: Tensor, stencil: ScoreStencil, options: TargetOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """Return couplings (..., 9, h, w), pull (..., h, w) and energy (...) of labels (..., H, W).

    Pixel weights come from the labels at the threshold 0.5, the labels themselves stay soft.
    """
    labels = labels.to(options.dtype)
    if options.pixel_weights:
        q = pixel_weights(labels, k_min=options.k_min)
    else:
        q = torch.ones_like(labels)
    weighted = q * labels
    return (
        stencil.couplings(q),
        stencil.downsum(weighted),
        (weighted * labels).sum((-2, -1)),
    )


@dataclass
class FirstSamples:
    """What some objects learned from their first frame: (K, N, ...) but for the model."""

    model: TargetModel
    features: Tensor
    couplings: Tensor
    pull: Tensor
    energy: Tensor

    @classmethod
    def join(cls, parts: Sequence[FirstSamples]) -> FirstSamples:
        """Put the objects of several parts into one."""

        def cat(name: str) -> Tensor:
            return torch.cat([getattr(p, name) for p in parts], 1)

        model = TargetModel(
            torch.cat([p.model.project for p in parts]), torch.cat([p.model.filter for p in parts])
        )
        return cls(model, cat("features"), cat("couplings"), cat("pull"), cat("energy"))


def learn_first(
    model: TargetModel,
    features: Tensor,
    labels: Tensor,
    stencil: ScoreStencil,
    options: TargetOptions,
) -> FirstSamples:
    """Learn both layers on the first frame's samples.

    Args:
        model: initial filters of N objects.
        features: (K, N, C, h, w), the unmodified frame first.
        labels: (K, N, H, W).
    """
    features = features.to(options.dtype)
    parts = collapse(labels, stencil, options)
    g = torch.ones(labels.shape[:2], dtype=options.dtype, device=labels.device)
    g[0] = 2
    targets = weighted_targets(g / g.sum(0), *parts)
    problem = JointProblem(model.to(options.dtype), features, targets, options.filter_reg)
    options.optimizer(slice(None)).run(problem, options.init_steps)
    return FirstSamples(problem.model, problem.model.project_features(features), *parts)


class TargetLearner:
    """The target models of N objects that started together, with their memory and schedule.

    Args:
        ids: the objects.
        first: what was learned from the first frame; the filter is optimised once more here, by
            the optimiser that later runs the updates (C).
        options: settings.
    """

    def __init__(self, ids: Sequence[int], first: FirstSamples, options: TargetOptions) -> None:
        self.ids = list(ids)
        self.options = options
        self.model = first.model
        _, n, c, h, w = first.features.shape
        self.memory = SampleMemory(
            n,
            options.capacity if options.interval > 0 else first.features.shape[0],
            c,
            (h, w),
            eta=options.eta,
            lasting=options.lasting,
            dtype=options.dtype,
            device=first.features.device,
        )
        self.memory.start(first.features, first.couplings, first.pull, first.energy)
        self.optimizer = options.optimizer(slice(1, None))
        self.frames = 0
        self._taps: Tensor | None = None
        self._optimise(None)

    def scores(self, features: Tensor) -> Tensor:
        """Return the scores (N, 1, h, w) of a frame's features (1, C, h, w)."""
        if self._taps is None:  # both layers as one: nine products a cell
            self._taps = torch.matmul(self.model.filter, self.model.project)
        h, w = features.shape[-2:]
        taps = torch.matmul(self._taps, features.to(self.options.dtype).flatten(2))
        return collect(taps.view(-1, 9, h, w))[:, None].float()

    def observe(self, features: Tensor, planes: Tensor, stencil: ScoreStencil) -> None:
        """Learn from what a frame was segmented to.

        An object that covers fewer than ten pixels learns nothing, even if an update is due.

        Args:
            features: (1, C, h, w).
            planes: the objects' merged probabilities (N, H, W).
        """
        if self.options.interval == 0:
            return
        self.frames += 1
        active = (planes > 0.5).sum((-2, -1)) >= MIN_PIXELS
        projected = self.model.project_features(features[None].to(self.options.dtype))
        parts = collapse(planes, stencil, self.options)
        self.memory.insert(projected[0], *parts, active=active)
        if self.frames % self.options.interval == 0:
            self._optimise(active)

    def correct(self, rows: Sequence[int], features: Tensor, masks: Tensor, stencil) -> None:
        """Learn given masks as lasting samples, at once.

        Args:
            rows: the objects whose masks were given, as positions in ``ids``.
            features: (1, C, h, w).
            masks: bool (len(rows), H, W).
        """
        model = self.model.only(rows)
        projected = model.project_features(features[None].to(self.options.dtype))[0]
        parts = collapse(masks, stencil, self.options)
        for n, row in enumerate(rows):
            self.memory.insert_lasting(row, projected[n], *(p[n] for p in parts))
        active = torch.zeros(len(self.ids), dtype=torch.bool)
        active[list(rows)] = True
        self._optimise(active.to(features.device, non_blocking=True))

    def keep(self, rows: Sequence[int]) -> None:
        """Forget the other objects."""
        self.ids = [self.ids[r] for r in rows]
        self.model = self.model.only(rows)
        self.memory.keep(rows)
        self.optimizer.keep(rows)
        self._taps = None

    def _optimise(self, active: Tensor | None) -> None:
        features, targets = self.memory.samples()
        problem = FilterProblem(self.model.filter, features, targets, self.options.filter_reg[1])
        self.optimizer.run(problem, self.options.update_steps, active=active)
        self.model = TargetModel(self.model.project, problem.weight)
        self._taps = None
