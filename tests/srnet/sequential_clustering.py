"""Algorithm 1 of SRNet as the paper writes it, seed by seed, and random scenes to run it on."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from vis_projects.srnet.clustering import ClusterRules
from vis_projects.srnet.head_maps import DenseMaps


@dataclass
class SequentialResult:
    """Seeds in order as (cell, accepted), and the masks and scores of those accepted."""

    tried: list[tuple[int, bool]] = field(default_factory=list)
    masks: list[torch.Tensor] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)

    def labels(self, size: tuple[int, int]) -> torch.Tensor:
        out = torch.full(size, -1, dtype=torch.int64)
        for row, mask in enumerate(self.masks):
            out[mask.view(size)] = row
        return out


def cluster_sequentially(maps, rules: ClusterRules) -> SequentialResult:
    """``maps`` is a ``HeadMaps``."""
    result = SequentialResult()
    points, scores = maps.embedding.flatten(1), maps.objectness.flatten()
    image = maps.valid.flatten()
    available = image.clone()
    phi = torch.tensor(rules.extra_bandwidth)
    while True:
        masked = torch.where(available, scores, -1.0)
        cell = int(masked.argmax())
        score = float(masked[cell])
        done = len(result.tried) >= rules.max_seeds or len(result.masks) >= rules.max_instances
        if not score > rules.min_score or done:
            return result
        sigma = torch.cat([maps.sigma_at(torch.tensor([cell]))[0], phi])
        total = torch.zeros_like(scores)
        for k in range(len(points)):
            total = total + ((points[k] - points[k, cell]) * (1 / sigma[k])) ** 2
        proposal = (total < rules.limit) & image
        free = proposal & available
        available = available & ~proposal
        count, proposed = int(free.sum()), int(proposal.sum())
        accepted = count >= rules.min_area and count >= rules.min_free * proposed
        result.tried.append((cell, accepted))
        if accepted:
            result.masks.append(free)
            result.scores.append(score)
            result.seeds.append(cell)


def random_maps(
    seed: int, size: tuple[int, int] = (24, 36), *, blobs: int = 6, noise: float = 0.05
) -> DenseMaps:
    """Noisy discs that point at their centres, crossing and touching, with ties in objectness."""
    g = torch.Generator().manual_seed(seed)
    h, w = size
    offset = noise * torch.randn((4, h, w), generator=g)
    objectness = 0.3 * torch.rand((h, w), generator=g)
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    for _ in range(blobs):
        y, x, r = (torch.rand(3, generator=g) * torch.tensor([h, w, h / 4])).tolist()
        inside = (rows - y) ** 2 + (columns - x) ** 2 < (r + 1) ** 2
        offset[0][inside] += (x - columns[inside]) * 2 / h
        offset[1][inside] += (y - rows[inside]) * 2 / h
        offset[2:][:, inside] += 0.3 * torch.randn((2, 1), generator=g)
        objectness[inside] = torch.rand((h, w), generator=g)[inside] * 0.6 + 0.4
    objectness = (objectness * 50).round() / 50
    sigma = 0.05 + 0.3 * torch.rand((2, h, w), generator=g)
    valid = torch.ones((h, w), dtype=torch.bool)
    valid[:, w - seed % 5 :] = False
    tracking = 0.2 * torch.randn((2, h, w), generator=g)
    category = torch.randn((3, h, w), generator=g)
    return DenseMaps(offset, sigma, tracking, objectness, category, valid)
