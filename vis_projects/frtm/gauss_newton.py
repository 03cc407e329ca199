"""Gauss-Newton with conjugate gradient for many objects at once (FRTM, section 3.1, Eq. 3).

The N objects of a batch have independent problems of equal shape. Parameters, gradients and
directions are tuples of tensors with N as first dimension, one per layer; inner products sum over
everything but N and over the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

Layers = tuple[Tensor, ...]

VARIANTS = ("polak_ribiere", "fletcher_reeves")


class LeastSquares(Protocol):
    """A problem with residual vector r(w): what one Gauss-Newton iteration asks of it."""

    def parameters(self) -> Layers:
        """Return w."""

    def set_parameters(self, parameters: Layers) -> None:
        """Replace w."""

    def descent(self) -> Layers:
        """Return ``b = -J^T r`` at w; J is the residual's Jacobian."""

    def product(self, direction: Layers) -> Layers:
        """Return ``J^T J p``."""


def inner(a: Layers, b: Layers) -> Tensor:
    """Return the inner product per object (N,)."""
    return torch.stack([(x * y).flatten(1).sum(1) for x, y in zip(a, b)]).sum(0)


def _scaled(factor: Tensor, x: Tensor) -> Tensor:
    return factor.view(-1, *[1] * (x.dim() - 1)) * x


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where that is not a number or not finite (a converged or empty problem)."""
    q = a / b
    return torch.where(torch.isfinite(q), q, torch.zeros_like(q))


class GaussNewton:
    """Runs Gauss-Newton iterations; each solves its linear problem by a few CG steps.

    No damping, no line search, step length 1. The last direction, its rho and its residual
    outlive iterations and calls, as in the authors' optimiser, unless ``forget`` is 0.

    Args:
        precondition: a divisor of the residual per layer.
        variant: ``"polak_ribiere"`` or ``"fletcher_reeves"``, the rule for beta.
        forget: rho of the last direction is divided by it when an iteration starts; 0 restarts.
        log: called with every vector of inner products (N,) in order, for tests.
    """

    def __init__(
        self,
        precondition: Sequence[float],
        *,
        variant: str = "polak_ribiere",
        forget: float = 0.0,
        log: Callable[[Tensor], None] | None = None,
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"conjugate gradient variant {variant!r}: use {' or '.join(VARIANTS)}")
        self.precondition = tuple(precondition)
        self.variant = variant
        self.forget = forget
        self._log = log
        self._direction: Layers | None = None
        self._rho: Tensor | None = None
        self._residual: Layers | None = None

    def run(
        self, problem: LeastSquares, steps: Sequence[int], *, active: Tensor | None = None
    ) -> None:
        """Run one iteration per entry of ``steps``, the number of its CG steps.

        Args:
            active: bool (N,): objects that take part; the others keep parameters and state.
        """
        for count in steps:
            before = problem.parameters()
            state = (self._direction, self._rho, self._residual)
            change = self._solve(problem, count)
            after = tuple(w + x for w, x in zip(before, change))
            if active is not None:
                after = _select(active, after, before)
                self._keep(active, *state)
            problem.set_parameters(after)

    def keep(self, rows: Sequence[int]) -> None:
        """Forget the other objects."""
        if self._direction is not None:
            self._direction = tuple(x[list(rows)] for x in self._direction)
        if self._rho is not None:
            self._rho = self._rho[list(rows)]
        if self._residual is not None:
            self._residual = tuple(x[list(rows)] for x in self._residual)

    def _keep(self, active: Tensor, direction, rho, residual) -> None:
        """Give objects that took no part their old state back."""
        if direction is None:  # a first run: they start from nothing again, with beta 0
            direction = tuple(torch.zeros_like(p) for p in self._direction)
            rho = torch.full_like(self._rho, torch.inf)
            residual = direction
        self._direction = _select(active, self._direction, direction)
        self._residual = _select(active, self._residual, residual)
        self._rho = torch.where(active, self._rho, rho)

    def _solve(self, problem: LeastSquares, count: int) -> Layers:
        """Solve ``J^T J x = b`` roughly by ``count`` steps from x = 0."""
        residual = problem.descent()
        x = tuple(torch.zeros_like(r) for r in residual)
        if self.forget == 0:
            self._direction = None
        elif self._direction is not None:
            self._rho = self._rho / self.forget
        for i in range(count):
            z = tuple(r / m for r, m in zip(residual, self.precondition))
            rho_before, self._rho = self._rho, self._inner(residual, z)
            if self._direction is None:
                self._direction = z
            else:
                beta = self._beta(rho_before, z)
                self._direction = tuple(a + _scaled(beta, p) for a, p in zip(z, self._direction))
            q = problem.product(self._direction)
            alpha = _quotient(self._rho, self._inner(self._direction, q))
            self._residual = residual
            x = tuple(a + _scaled(alpha, p) for a, p in zip(x, self._direction))
            if i < count - 1:
                residual = tuple(r - _scaled(alpha, a) for r, a in zip(residual, q))
        return x

    def _beta(self, rho_before: Tensor, z: Layers) -> Tensor:
        if self.variant == "polak_ribiere":
            rho = self._rho - self._inner(self._residual, z)
        else:
            rho = self._rho
        return _quotient(rho, rho_before).clamp(min=0)

    def _inner(self, a: Layers, b: Layers) -> Tensor:
        value = inner(a, b)
        if self._log is not None:
            self._log(value)
        return value


def _select(active: Tensor, new: Layers, old: Layers) -> Layers:
    return tuple(torch.where(active.view(-1, *[1] * (a.dim() - 1)), a, b) for a, b in zip(new, old))
