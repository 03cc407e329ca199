"""Instance attention vectors: what an object and its surroundings look like on average."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def masked_sums(
    embedding: torch.Tensor, masks: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sums inside and outside each mask and their pixel counts.

    Args:
        embedding: (C, h, w).
        masks: (N, h, w) 0/1.

    Returns:
        inside (N, C), inside count (N,), outside (N, C), outside count (N,).
    """
    flat, weights = embedding.flatten(1), masks.flatten(1).to(embedding.dtype)
    inside = weights @ flat.T
    count = weights.sum(1)
    return inside, count, flat.sum(1)[None] - inside, weights.shape[1] - count


def instance_attention(
    references: Sequence[tuple[torch.Tensor, torch.Tensor]],
    previous: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """Attention vectors (N, 4C): mean embedding of the references inside, outside, of the previous
    frame inside, outside (CFBI section 3.3).

    Args:
        references: (embedding (C, h, w), masks (N, h, w)) per reference frame; sums and counts are
            added over the frames before dividing.
        previous: the same of the frame before.
    """
    total = [sum(parts) for parts in zip(*(masked_sums(e, m) for e, m in references))]
    means = []
    for inside, count, outside, rest in (total, masked_sums(*previous)):
        means += [inside / (count[:, None] + 1e-5), outside / (rest[:, None] + 1e-5)]
    return torch.cat(means, 1)
