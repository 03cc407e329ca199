"""The target model D, two linear layers learned at test time (FRTM, section 3.1, Eq. 1 and 2).

Letters: K samples, N objects, C feature channels, c channels after the projection, P = h * w
score cells. Features are (K, N, C, h, w), samples first, so that the samples in use of a memory
are one contiguous block; the projection is (N, c, C), the filter (N, 9, c) with the nine taps of
its 3x3 kernel in reading order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .gauss_newton import Layers
from .score_stencil import apply_couplings, collect, spread


@dataclass
class TargetModel:
    """Filters of N objects.

    Attributes:
        project: 1x1 convolution, (N, c, C).
        filter: 3x3 convolution with zero padding, (N, 9, c).
    """

    project: Tensor
    filter: Tensor

    @classmethod
    def random(
        cls, objects: int, channels: int, width: int, *, generator: torch.Generator
    ) -> TargetModel:
        """Draw filters as PyTorch's convolutions do: uniform within 1 / sqrt(fan-in)."""

        def draw(*shape: int, fan_in: int) -> Tensor:
            return (torch.rand(shape, generator=generator) * 2 - 1) * fan_in**-0.5

        return cls(
            draw(objects, width, channels, fan_in=channels),
            draw(objects, 9, width, fan_in=9 * width),
        )

    @classmethod
    def from_state(cls, project: Tensor, filter: Tensor) -> TargetModel:
        """Make one object's model of the official entries (c, C, 1, 1) and (1, c, 3, 3)."""
        return cls(project.flatten(1)[None], filter.flatten(2).transpose(1, 2).contiguous())

    def state(self, index: int = 0) -> dict[str, Tensor]:
        """Return one object's filters under the official names and shapes."""
        return {
            "project.weight": self.project[index, :, :, None, None].contiguous(),
            "filter.weight": self.filter[index : index + 1].mT.unflatten(2, (3, 3)).contiguous(),
        }

    def to(self, *args, **kwargs) -> TargetModel:
        """Move or convert, like ``Tensor.to``."""
        return TargetModel(self.project.to(*args, **kwargs), self.filter.to(*args, **kwargs))

    def only(self, rows: Sequence[int]) -> TargetModel:
        """Return the filters of some objects."""
        return TargetModel(self.project[list(rows)], self.filter[list(rows)])

    def project_features(self, features: Tensor) -> Tensor:
        """Apply the first layer: (K, N or 1, C, h, w) -> (K, N, c, h, w)."""
        out = torch.matmul(self.project, features.flatten(3))
        return out.unflatten(3, features.shape[-2:])

    def scores(self, features: Tensor) -> Tensor:
        """Return the scores (K, N, h, w) of features (K, N or 1, C, h, w) (Eq. 1)."""
        return filter_scores(self.filter, self.project_features(features))


def filter_scores(weight: Tensor, projected: Tensor) -> Tensor:
    """Apply the second layer: filter (N, 9, c) on (K, N, c, h, w) -> scores (K, N, h, w)."""
    k, n, _, h, w = projected.shape
    taps = torch.matmul(weight, projected.flatten(3))  # (K, N, 9, P)
    return collect(taps.view(k * n, 9, h, w)).view(k, n, h, w)


def filter_gradient(projected: Tensor, taps: Tensor) -> Tensor:
    """Correlate (K, N, c, h, w) with taps (K, N, 9, P) of a score map: (N, 9, c)."""
    return torch.matmul(taps, projected.flatten(3).transpose(2, 3)).sum(0)


@dataclass
class Targets:
    """What the loss knows of the labels, collapsed to score cells and weighted per sample.

    Attributes:
        couplings: ``g U^T diag(q) U``, (K, N, 9, h, w).
        pull: ``g U^T (q y)``, (K, N, h, w).
        energy: ``sum g q y^2``, (N,); only the value of the loss needs it.
    """

    couplings: Tensor
    pull: Tensor
    energy: Tensor

    def weighted_error(self, scores: Tensor) -> Tensor:
        """Return ``g U^T q (U s - y)``, (K, N, h, w)."""
        return self.weighted(scores) - self.pull

    def weighted(self, scores: Tensor) -> Tensor:
        """Return ``g U^T q U s``, (K, N, h, w)."""
        out = apply_couplings(self.couplings.flatten(0, 1), scores.flatten(0, 1))
        return out.unflatten(0, scores.shape[:2])

    def loss(self, scores: Tensor) -> Tensor:
        """Return the squared norm of the data residual (N,)."""
        quadratic = scores * (self.weighted(scores) - 2 * self.pull)
        return quadratic.sum((0, 2, 3)) + self.energy


def weighted_targets(g: Tensor, couplings: Tensor, pull: Tensor, energy: Tensor) -> Targets:
    """Weigh collapsed samples (K, N, ...) by g (K, N)."""
    return Targets(
        g[:, :, None, None, None] * couplings, g[:, :, None, None] * pull, (g * energy).sum(0)
    )


def _taps(error: Tensor) -> Tensor:
    """Error maps (K, N, h, w) to the nine taps (K, N, 9, P) of the filter's adjoint."""
    return spread(error.flatten(0, 1)).view(*error.shape[:2], 9, -1)


class JointProblem:
    """Both layers, on backbone features: the first frame.

    Args:
        model: start values; replaced as iterations run.
        features: (K, N, C, h, w).
        targets: the collapsed labels.
        regularisation: factors f_1, f_2 of the filters inside the residual; lambda_j = f_j^2.
    """

    def __init__(
        self,
        model: TargetModel,
        features: Tensor,
        targets: Targets,
        regularisation: tuple[float, float],
    ) -> None:
        self.features, self.targets, self.f = features, targets, regularisation
        self.set_parameters((model.project, model.filter))

    @property
    def model(self) -> TargetModel:
        return TargetModel(*self.parameters())

    def parameters(self) -> Layers:
        return self._w1, self._w2

    def set_parameters(self, parameters: Layers) -> None:
        self._w1, self._w2 = parameters
        self._projected = self.model.project_features(self.features)

    def scores(self) -> Tensor:
        return filter_scores(self._w2, self._projected)

    def descent(self) -> Layers:
        g1, g2 = self._adjoint(self.targets.weighted_error(self.scores()))
        return -(g1 + self.f[0] ** 2 * self._w1), -(g2 + self.f[1] ** 2 * self._w2)

    def product(self, direction: Layers) -> Layers:
        p1, p2 = direction
        moved = TargetModel(p1, self._w2).project_features(self.features)
        scores = filter_scores(self._w2, moved) + filter_scores(p2, self._projected)
        g1, g2 = self._adjoint(self.targets.weighted(scores))
        return g1 + self.f[0] ** 2 * p1, g2 + self.f[1] ** 2 * p2

    def loss(self) -> Tensor:
        """Return the three parts (3, N): data, f_1 w_1, f_2 w_2."""
        parts = [self.f[0] ** 2 * self._w1**2, self.f[1] ** 2 * self._w2**2]
        penalty = [part.flatten(1).sum(1) for part in parts]
        return torch.stack([self.targets.loss(self.scores()), *penalty])

    def _adjoint(self, error: Tensor) -> Layers:
        taps = _taps(error)
        g2 = filter_gradient(self._projected, taps)
        back = torch.matmul(self._w2.mT, taps)  # (K, N, c, P)
        g1 = torch.matmul(back, self.features.flatten(3).transpose(2, 3)).sum(0)
        return g1, g2


class FilterProblem:
    """The second layer alone, on projected features (K, N, c, h, w): updates."""

    def __init__(
        self, weight: Tensor, projected: Tensor, targets: Targets, regularisation: float
    ) -> None:
        self.weight, self.projected, self.targets = weight, projected, targets
        self.f = regularisation

    def parameters(self) -> Layers:
        return (self.weight,)

    def set_parameters(self, parameters: Layers) -> None:
        (self.weight,) = parameters

    def scores(self) -> Tensor:
        return filter_scores(self.weight, self.projected)

    def descent(self) -> Layers:
        error = self.targets.weighted_error(self.scores())
        return (-(filter_gradient(self.projected, _taps(error)) + self.f**2 * self.weight),)

    def product(self, direction: Layers) -> Layers:
        error = self.targets.weighted(filter_scores(direction[0], self.projected))
        return (filter_gradient(self.projected, _taps(error)) + self.f**2 * direction[0],)

    def loss(self) -> Tensor:
        """Return the two parts (2, N): data, f_2 w_2."""
        penalty = (self.f**2 * self.weight**2).flatten(1).sum(1)
        return torch.stack([self.targets.loss(self.scores()), penalty])
