"""The terms of SRNet's loss (Eqs. 5, 7, 8 and 9), each for one frame.

Letters: N instances, D embedding channels, C classes, h x w map (stride 4), P = h * w cells.
Everything is computed in float32 or better, also under autocast.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .spatial_grid import sample_bilinear, to_grid

_TINY = 1e-12  # keeps the gradient of a norm finite at zero


def lovasz_hinge(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Lovasz hinge loss of each row (Yu and Blaschko 2015; Berman et al. 2018).

    Args:
        logits: (N, P); the decision boundary is 0.
        labels: bool (N, P).

    Returns:
        (N,). With P = 0 it is 0.
    """
    if logits.shape[1] == 0:
        return logits.sum(1)
    signs = 2 * labels.to(logits.dtype) - 1
    errors = 1 - logits * signs
    ordered, order = errors.sort(dim=1, descending=True)
    increments = _jaccard_increments(labels.gather(1, order).to(logits.dtype))
    return (ordered.relu() * increments).sum(1)


@torch.no_grad()
def _jaccard_increments(labels: torch.Tensor) -> torch.Tensor:
    """Growth of the Jaccard loss when cells are added in order of falling error."""
    total = labels.sum(1, keepdim=True)
    intersection = total - labels.cumsum(1)
    union = total + (1 - labels).cumsum(1)
    jaccard = 1 - intersection / union
    return torch.diff(jaccard, dim=1, prepend=torch.zeros_like(total))


def dice(probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """1 - (2 sum(PM) + 1) / (sum P + sum M + 1) of each row; both (N, P), returns (N,)."""
    labels = labels.to(probabilities.dtype)
    intersection = (probabilities * labels).sum(1)
    return 1 - (2 * intersection + 1) / (probabilities.sum(1) + labels.sum(1) + 1)


def masked_mean(values: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Mean of ``values`` (K, P) over each of ``masks`` (N, P): (N, K). Empty masks give 0."""
    weights = masks.to(values.dtype)
    return weights @ values.T / weights.sum(1, keepdim=True).clamp(min=1)


def smoothness(sigma: torch.Tensor, mean_sigma: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Second term of Eq. 5: mean over each mask of |Sigma_ij - Sigma_n|, a norm, not its square.

    Args:
        sigma: (2, P). mean_sigma: (N, 2), gets no gradient. masks: bool (N, P).
    """
    deviation = sigma[None] - mean_sigma.detach()[:, :, None]
    norm = (deviation.square().sum(1) + _TINY).sqrt()
    weights = masks.to(sigma.dtype)
    return (norm * weights).sum(1) / weights.sum(1).clamp(min=1)


def log_smoothness(r: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Neven et al.'s variant: mean squared deviation of r (2, P) from its mean in each mask."""
    deviation = (r[None] - masked_mean(r, masks)[:, :, None]).square().mean(1)
    weights = masks.to(r.dtype)
    return (deviation * weights).sum(1) / weights.sum(1).clamp(min=1)


def tracking_errors(
    tracking: torch.Tensor, centres: torch.Tensor, previous: torch.Tensor
) -> torch.Tensor:
    """Eq. 7 for each instance: |T(c_t) + S(c_t) - S(c_{t-1})| in grid units, (N,).

    Args:
        tracking: T (2, h, w).
        centres, previous: (N, 2) fractional cell indices (column, row) at t and t - 1.
    """
    h, w = tracking.shape[-2:]
    error = sample_bilinear(tracking, centres) + to_grid(centres, h, w) - to_grid(previous, h, w)
    return (error.square().sum(1) + _TINY).sqrt()


def objectness_loss(
    objectness: torch.Tensor,
    target: torch.Tensor,
    valid: torch.Tensor,
    masks: torch.Tensor,
    *,
    balance: str = "pixel",
) -> torch.Tensor:
    """Eq. 8: squared error of O against P_n inside instance n and 0 elsewhere.

    Args:
        objectness, target: (P,). valid: bool (P,). masks: bool (N, P).
        balance: "pixel": mean over valid cells (the paper); "instance": mean of the background's
            mean and every instance's mean.
    """
    error = (objectness - target).square() * valid
    if balance == "pixel":
        return error.sum() / valid.sum().clamp(min=1)
    inside = masks & valid
    background = (valid & ~masks.any(0)).to(error.dtype)
    means = (inside.to(error.dtype) @ error) / inside.sum(1).clamp(min=1)
    total = (error * background).sum() / background.sum().clamp(min=1) + means.sum()
    return total / (len(masks) + 1)


def category_loss(logits: torch.Tensor, masks: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Eq. 9: cross-entropy over the C classes, mean over the cells of instances.

    Args:
        logits: (C, P). masks: bool (N, P), disjoint (else the first row owns a cell).
        classes: (N,); < 0 takes no part.
    """
    foreground, owner = masks.max(0)
    label = classes[owner]
    foreground = foreground & (label >= 0)
    label = label.clamp(min=0)
    loss = F.cross_entropy(logits.T, label, reduction="none")
    return (loss * foreground).sum() / foreground.sum().clamp(min=1)
