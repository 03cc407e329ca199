"""CFBI's matching as its formulas are written: the reference for equality, speed and memory.

Letters as in ``vis_projects.cfbi.matching``.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

FAR = 5e4


def direct_global_distances(
    query: torch.Tensor,
    references: list[torch.Tensor],
    labels: list[torch.Tensor],
    num_objects: int,
    *,
    chunks: int = 20,
) -> torch.Tensor:
    """For every object: all distances to all pixels, those of other labels set to far, the minimum.

    The query goes through in ``chunks`` parts, as in the paper's implementation.
    """
    channels, h, w = query.shape
    pixels = query.permute(1, 2, 0).reshape(-1, channels)
    keys = torch.cat([r.permute(1, 2, 0).reshape(-1, channels) for r in references])
    planes = torch.cat([label.reshape(-1) for label in labels])
    parts = []
    for part in pixels.chunk(chunks):
        per_object = []
        for plane in range(num_objects):
            squares = part.square().sum(1, keepdim=True) + keys.square().sum(1)[None]
            distance = squares - 2 * part @ keys.T
            distance = torch.where((planes == plane)[None], distance, FAR)
            per_object.append(distance.min(1).values)
        parts.append(torch.stack(per_object))
    return torch.cat(parts, 1).view(num_objects, h, w)


def direct_window_distances(
    query: torch.Tensor,
    previous: torch.Tensor,
    labels: torch.Tensor,
    num_objects: int,
    window: int,
) -> torch.Tensor:
    """The whole window tensor (h, w, (2K+1)^2) for every object, then the minimum."""
    return direct_windows(query, previous, labels, num_objects, (window,))[:, 0]


def direct_windows(
    query: torch.Tensor,
    previous: torch.Tensor,
    labels: torch.Tensor,
    num_objects: int,
    windows: tuple[int, ...],
) -> torch.Tensor:
    """The window tensor of the largest window once, and a minimum for each window and object."""
    radius = max(windows)
    k = 2 * radius + 1
    padded = F.pad(previous, (radius,) * 4)
    near = padded.unfold(1, k, 1).unfold(2, k, 1)  # (C, h, w, k, k), a view
    distance = torch.zeros((*labels.shape, k, k))
    for q, n in zip(query, near):
        distance += (q[..., None, None] - n).square()
    marks = F.pad(labels, (radius,) * 4, value=-1).unfold(0, k, 1).unfold(1, k, 1)
    masked = torch.stack([torch.where(marks == o, distance, FAR) for o in range(num_objects)])
    per_window = []
    for window in windows:
        low, high = radius - window, radius + window + 1
        per_window.append(masked[..., low:high, low:high].flatten(3).amin(-1))
    return torch.stack(per_window, 1)
