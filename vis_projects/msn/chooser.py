"""Which of two masks is better: the selection network's answer for pairs of one frame."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..modeling import stage
from .association import mask_iou
from .pair_crops import pair_input
from .selection_network import pair_logit

_CHUNK = 64  # pairs that go through the network at once


class MaskChooser:
    """Asks a selection network about pairs of masks (MSN, Section 3.2).

    Args:
        network: maps (N, 8, S, S) to patch logits of "A is better".
        size, crop, aggregate, symmetric: see ``MODEL.MSN.SELECTOR``.
        autocast: gives the context for the network at test.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        size: int = 256,
        crop: str = "union",
        aggregate: str = "mean_logit",
        symmetric: bool = False,
        autocast: Any = None,
    ) -> None:
        self.network = network
        self.size, self.crop, self.aggregate = size, crop, aggregate
        self.symmetric = symmetric
        self.autocast = autocast

    def probability(
        self, image: torch.Tensor, masks_a: torch.Tensor, masks_b: torch.Tensor
    ) -> torch.Tensor:
        """P(A is better), float (N,).

        An empty mask always loses, whatever the network says; two empty masks give 0.5.

        Args:
            image: RGB in [0, 1], (3, H, W).
            masks_a, masks_b: bool (N, H, W).
        """
        parts = [
            self._logits(image, a, b) for a, b in zip(masks_a.split(_CHUNK), masks_b.split(_CHUNK))
        ]
        logits = torch.cat(parts) if parts else image.new_zeros(0)
        has_a, has_b = masks_a.any(2).any(1), masks_b.any(2).any(1)
        certain = 0.5 + 0.5 * (has_a.float() - has_b.float())
        return torch.where(has_a & has_b, logits.sigmoid(), certain)

    def _logits(
        self, image: torch.Tensor, masks_a: torch.Tensor, masks_b: torch.Tensor
    ) -> torch.Tensor:
        if len(masks_a) == 0:
            return image.new_zeros(0)
        with stage("selection"):
            x = pair_input(image, masks_a, masks_b, size=self.size, crop=self.crop)
            logits = self._ask(x)
            if self.symmetric:
                logits = (logits - self._ask(torch.cat([x[:, 4:], x[:, :4]], 1))) / 2
        return logits

    def _ask(self, x: torch.Tensor) -> torch.Tensor:
        if self.autocast is None:
            return pair_logit(self.network(x), self.aggregate)
        with self.autocast():
            scores = self.network(x)
        return pair_logit(scores.float(), self.aggregate)


def oracle_choice(
    truth: torch.Tensor, masks_a: torch.Tensor, masks_b: torch.Tensor
) -> torch.Tensor:
    """Bool (N,): A overlaps the pair's true object at least as well as B.

    Args:
        truth: bool (G, H, W) of the frame. The pair's object is the one with the highest IoU to
            either mask; without any, A stays.
    """
    if len(truth) == 0:
        return torch.ones(len(masks_a), dtype=torch.bool, device=masks_a.device)
    iou_a, iou_b = mask_iou(masks_a, truth), mask_iou(masks_b, truth)
    best = torch.maximum(iou_a, iou_b).argmax(1, keepdim=True)
    return (iou_a.gather(1, best) >= iou_b.gather(1, best))[:, 0]
