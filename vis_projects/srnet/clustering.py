"""Clustering of Algorithm 1 (lines 2 to 14) in two phases, without host synchronisation.

Phase 1 finds the seeds one after the other, each removing the cells of its proposal from those
that later seeds may start at. Whether a seed is accepted never influences later seeds, so phase 2
decides that for all seeds at once. ``compact_clustering`` has the same two phases for the CPU.

Letters: D embedding channels, P cells of the h x w map (row-major), K seeds (MAX_SEEDS),
R result rows (MAX_INSTANCES).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from .instance_probability import distance_limit, inverse_bandwidth, squared_distance

SigmaAt = Callable[[torch.Tensor], torch.Tensor]  # cells (M,) -> Sigma (M, 2)


@dataclass(frozen=True)
class ClusterRules:
    """``MODEL.SRNET.TEST``: when a seed is taken and when its proposal becomes an instance."""

    min_score: float = 0.5
    mask_threshold: float = 0.5
    min_area: int = 16
    min_free: float = 0.5
    max_instances: int = 20
    max_seeds: int = 64
    extra_bandwidth: Sequence[float] = (0.3, 0.3)
    mask_objectness: float = 0.0

    def claimable(self, objectness: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Cells (h, w) that instances may have: those of ``valid`` with enough objectness."""
        return valid & (objectness > self.mask_objectness) if self.mask_objectness > 0 else valid

    @property
    def limit(self) -> float:
        """A cell belongs to a proposal if its squared distance is below this."""
        return distance_limit(self.mask_threshold)


@dataclass
class Clusters:
    """Seeds that were tried, in order, and what became of them.

    Attributes:
        cells: int64 (K,) the seeds' cells.
        centre, inverse: (K, D) the seeds' embedding and [1/Sigma | 1/phi].
        live: bool (K,); rows that are False were never seeds.
        labels: int64 (h, w), row of the result, -1 for background.
        rows: int64 (R,), index of the seed behind each result row.
        present: bool (R,); rows that are False are padding. On the CPU there are none.
        scores: (R,) objectness of the seeds.
    """

    cells: torch.Tensor
    centre: torch.Tensor
    inverse: torch.Tensor
    live: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor
    present: torch.Tensor
    scores: torch.Tensor

    @property
    def row_of_seed(self) -> torch.Tensor:
        """int64 (K + 1,): the result row of each seed, -1 for none; the last entry is -1."""
        k, r = len(self.cells), len(self.rows)
        lookup = torch.full((k + 1,), -1, device=self.rows.device)
        target = torch.where(self.present, self.rows, k)
        values = torch.where(self.present, torch.arange(r, device=self.rows.device), -1)
        return lookup.scatter(0, target, values)

    def masks(self) -> torch.Tensor:
        """bool (R, h, w)."""
        return rows_as_masks(self.labels, len(self.rows))


def rows_as_masks(labels: torch.Tensor, rows: int) -> torch.Tensor:
    """Split a map of row numbers (h, w) into masks (rows, h, w)."""
    return labels[None] == torch.arange(rows, device=labels.device)[:, None, None]


def cluster_on_device(
    embedding: torch.Tensor,
    objectness: torch.Tensor,
    sigma_at: SigmaAt,
    valid: torch.Tensor,
    rules: ClusterRules,
) -> Clusters:
    """Cluster with tensors of fixed shapes only: runs ahead of the host on any device.

    Args:
        embedding: (D, h, w) float32. objectness: (h, w) float32. valid: bool (h, w).
        sigma_at: gives Sigma at seeds.
    """
    h, w = objectness.shape
    points, scores = embedding.flatten(1), objectness.flatten()
    seeds = _find_seeds(points, scores, sigma_at, valid.flatten(), rules)
    cells, live, centre, inverse, inside = seeds
    owner = first_owner(inside)
    return _decide(cells, live, centre, inverse, inside, owner, scores, (h, w), rules)


def _find_seeds(
    points: torch.Tensor,
    scores: torch.Tensor,
    sigma_at: SigmaAt,
    valid: torch.Tensor,
    rules: ClusterRules,
) -> tuple[torch.Tensor, ...]:
    """Phase 1: exactly MAX_SEEDS rounds; a round whose best score is too low changes nothing."""
    p = len(scores)
    index = torch.arange(p, device=scores.device)
    remaining = torch.where(valid, scores, -1.0)
    found = []
    for _ in range(rules.max_seeds):
        best = remaining.amax()
        # argmax does not promise the first of equal values on every device.
        cell = torch.where(remaining == best, index, p).amin().clamp(max=p - 1)[None]
        live = best > rules.min_score
        centre = points.index_select(1, cell).T
        inverse = inverse_bandwidth(sigma_at(cell), rules.extra_bandwidth)
        distance = squared_distance(points, centre, inverse)[0]
        inside = (distance < rules.limit) & valid & live
        remaining = torch.where(inside, -1.0, remaining)
        found.append((cell, live[None], centre, inverse, inside[None]))
    return tuple(torch.cat(column) for column in zip(*found))


def first_owner(inside: torch.Tensor) -> torch.Tensor:
    """Return the first row of ``inside`` (K, P) that holds each cell, K where none does."""
    k = len(inside)
    rank = torch.arange(k, device=inside.device)[:, None]
    return torch.where(inside, rank, k).amin(0)


def _decide(
    cells: torch.Tensor,
    live: torch.Tensor,
    centre: torch.Tensor,
    inverse: torch.Tensor,
    inside: torch.Tensor,
    owner: torch.Tensor,
    scores: torch.Tensor,
    size: tuple[int, int],
    rules: ClusterRules,
) -> Clusters:
    """Phase 2: accept by free area and number the first MAX_INSTANCES accepted seeds."""
    k, r = len(cells), rules.max_instances
    rank = torch.arange(k, device=cells.device)
    free = (owner[None] == rank[:, None]).sum(1)
    accepted = live & accept(free, inside.sum(1), rules)
    number = accepted.cumsum(0) - 1
    kept = accepted & (number < r)
    slot = torch.where(kept, number, r)
    rows = torch.zeros(r + 1, dtype=torch.int64, device=cells.device).scatter(0, slot, rank)[:r]
    present = torch.arange(r, device=cells.device) < kept.sum()
    row_of_seed = F.pad(torch.where(kept, number, -1), (0, 1), value=-1)
    return Clusters(
        cells=cells,
        centre=centre,
        inverse=inverse,
        live=live,
        labels=row_of_seed[owner].view(size),
        rows=rows,
        present=present,
        scores=torch.where(present, scores[cells[rows]], 0.0),
    )


def accept(free: torch.Tensor, proposed: torch.Tensor, rules: ClusterRules) -> torch.Tensor:
    """Rule (4): enough free cells, and not mostly taken by earlier seeds."""
    return (free >= rules.min_area) & (free.double() >= rules.min_free * proposed.double())


def owners_at(
    embedding: torch.Tensor, clusters: Clusters, rules: ClusterRules, *, chunk: int = 8
) -> torch.Tensor:
    """Repeat the owner rule at another resolution: result row of each pixel, -1 for none.

    Args:
        embedding: (D, H, W), the embedding there.
        chunk: seeds whose distances are held at a time.
    """
    size = embedding.shape[-2:]
    points = embedding.flatten(1)
    k = len(clusters.cells)
    owner = torch.full((points.shape[1],), k, dtype=torch.int64, device=points.device)
    for begin in range(0, k, chunk):
        part = slice(begin, begin + chunk)
        distance = squared_distance(points, clusters.centre[part], clusters.inverse[part])
        inside = (distance < rules.limit) & clusters.live[part, None]
        rank = torch.arange(begin, begin + len(inside), device=points.device)[:, None]
        owner = torch.minimum(owner, torch.where(inside, rank, k).amin(0))
    return clusters.row_of_seed[owner].view(size)
