"""The loss of one frame pair: SRNet's sections 3.3 to 3.6 put together.

Letters: N instances, D embedding channels, C classes, h x w map (stride 4), P = h * w cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..structures import InputError
from . import losses as terms
from .instance_probability import (
    activate_offset,
    bandwidth,
    embed,
    inverse_bandwidth,
    log_precision,
    probability,
    squared_distance,
)


@dataclass
class FrameTargets:
    """What frame t of a pair should come out as, at stride 4.

    Attributes:
        masks: bool (N, h, w), disjoint; rows without a valid cell are dropped beforehand.
        classes: int64 (N,); < 0 means the class takes no part.
        valid: bool (h, w); False on ignored regions, borders of a warp and padding.
        obj_valid: bool (h, w); where objectness is learned.
        centres, previous: (N, 2) mass centres (column, row) at t and t - 1.
        in_both: bool (N,); the instance is also in frame t - 1, and t - 1 is another frame.
        around: (N, K, 2) further points from which the vectors shall lead to ``previous``.
    """

    masks: torch.Tensor
    classes: torch.Tensor
    valid: torch.Tensor
    obj_valid: torch.Tensor
    centres: torch.Tensor
    previous: torch.Tensor
    in_both: torch.Tensor
    around: torch.Tensor | None = None


class Criterion:
    """All terms of the loss, each with weight 1 (SRNet, section 4.1).

    Args:
        iou: "lovasz" or "dice".
        smooth: "paper" (norm of Sigma's deviation) or "log_sq" (squared deviation of r).
        objectness: "pixel" or "instance", see ``objectness_loss``.
        extra_bandwidth: phi of the free dimensions.

    Raises:
        InputError: an unknown choice.
    """

    def __init__(
        self,
        *,
        iou: str = "lovasz",
        smooth: str = "paper",
        objectness: str = "pixel",
        extra_bandwidth: Sequence[float] = (0.3, 0.3),
    ) -> None:
        for key, value, known in (
            ("IOU", iou, ("lovasz", "dice")),
            ("SMOOTH", smooth, ("paper", "log_sq")),
            ("OBJ_BALANCE", objectness, ("pixel", "instance")),
        ):
            if value not in known:
                raise InputError(
                    f"MODEL.SRNET.{key} {value!r} is unknown: use {' or '.join(known)}"
                )
        self.iou = iou
        self.smooth = smooth
        self.balance = objectness
        self.extra = tuple(extra_bandwidth)

    def __call__(
        self, raw: dict[str, torch.Tensor], targets: FrameTargets
    ) -> dict[str, torch.Tensor]:
        """Return the terms of one frame.

        Args:
            raw: head outputs before activation, (channels, h, w): ``offset``, ``bandwidth``,
                ``tracking``, ``objectness`` and, for VIS, ``category``.
            targets: at the same size.
        """
        raw = {name: x if x.dtype == torch.float64 else x.float() for name, x in raw.items()}
        masks, valid = targets.masks.flatten(1), targets.valid.flatten()
        masks = masks & valid
        n = len(masks)
        embedding = embed(activate_offset(raw["offset"])).flatten(1)
        r = log_precision(raw["bandwidth"]).flatten(1)
        objectness = raw["objectness"].sigmoid().flatten()
        out = {}
        if n:
            sigma = bandwidth(r)
            mean_sigma = terms.masked_mean(sigma, masks)
            centre = terms.masked_mean(embedding, masks)
            inverse = inverse_bandwidth(mean_sigma, self.extra)
            p = probability(squared_distance(embedding, centre, inverse))
            target = (p.detach() * masks).amax(0)
            out["loss_iou"] = self._overlap(p, masks, valid).mean()
            out["loss_smooth"] = (
                terms.smoothness(sigma, mean_sigma, masks)
                if self.smooth == "paper"
                else terms.log_smoothness(r, masks)
            ).mean()
            errors = self._tracking(raw["tracking"], targets)
            both = targets.in_both.to(errors.dtype)
            out["loss_track"] = (errors * both).sum() / both.sum().clamp(min=1)
        else:
            # Zero, yet connected: distributed training expects a gradient for every parameter.
            target = torch.zeros_like(objectness)
            out["loss_iou"] = 0 * raw["offset"].sum()
            out["loss_smooth"] = 0 * raw["bandwidth"].sum()
            out["loss_track"] = 0 * raw["tracking"].sum()
        out["loss_objectness"] = terms.objectness_loss(
            objectness, target, targets.obj_valid.flatten(), masks, balance=self.balance
        )
        if "category" in raw:
            logits = raw["category"].flatten(1)
            out["loss_category"] = (
                terms.category_loss(logits, masks, targets.classes) if n else 0 * logits.sum()
            )
        return out

    def _tracking(self, tracking: torch.Tensor, targets: FrameTargets) -> torch.Tensor:
        """Eq. 7 of each instance (N,), mean over its centre and the points around it."""
        points = targets.centres[:, None]
        if targets.around is not None:
            points = torch.cat([points, targets.around], 1)
        previous = targets.previous[:, None].expand_as(points)
        errors = terms.tracking_errors(tracking, points.flatten(0, 1), previous.flatten(0, 1))
        return errors.view(points.shape[:2]).mean(1)

    def _overlap(self, p: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        if self.iou == "dice":
            return terms.dice(p * valid, masks)
        # Logit -2 with label 0 has error -1: sorted behind every valid cell and without effect.
        return terms.lovasz_hinge(torch.where(valid, 2 * p - 1, -2.0), masks)
