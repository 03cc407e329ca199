"""Who is who: links detections to those of the previous frame (Algorithm 1, lines 15 to 19).

Letters: Q previous rows, R current rows. Nothing here synchronises with the host.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..structures import InputError
from .instances import Detections


@dataclass
class TrackMemory:
    """What is remembered of earlier frames, one row per track.

    Attributes:
        centre: (Q, 2) in grid units. box_area: (Q,). box: (Q, 4), see ``MaskShape``.
        classes: int64 (Q,), when last seen. ids: int64 (Q,). present: bool (Q,).
        next_id: int64 scalar tensor.
        blocks: numbers of rows by age: those of frame t - 1, then t - 2, ...
    """

    centre: torch.Tensor
    box_area: torch.Tensor
    box: torch.Tensor
    classes: torch.Tensor
    ids: torch.Tensor
    present: torch.Tensor
    next_id: torch.Tensor
    blocks: list[int]

    @classmethod
    def empty(cls, device: torch.device | str = "cpu") -> TrackMemory:
        def zeros(*shape: int, dtype=torch.float32) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        return cls(
            zeros(0, 2),
            zeros(0),
            zeros(0, 4, dtype=torch.int64),
            zeros(0, dtype=torch.int64),
            zeros(0, dtype=torch.int64),
            zeros(0, dtype=torch.bool),
            torch.ones((), dtype=torch.int64, device=device),
            [],
        )


def pair_costs(
    previous: torch.Tensor,
    tracking: torch.Tensor,
    previous_area: torch.Tensor,
    area: torch.Tensor,
    *,
    gate: str = "box",
    reach: float = 0.75,
) -> torch.Tensor:
    """Distances (Q, R) of tracking vectors' ends (R, 2) from previous centres (Q, 2).

    Pairs that the gate forbids cost infinity. Gate "box" (CenterTrack): the squared distance may
    exceed neither box area; "distance": the distance may not exceed ``reach``; "none": the paper.
    """
    difference = previous[:, None] - tracking[None]
    square = difference.square().sum(2)
    cost = square.sqrt()
    if gate == "box":
        allowed = (square <= previous_area[:, None]) & (square <= area[None])
        cost = torch.where(allowed, cost, torch.inf)
    elif gate == "distance":
        cost = torch.where(cost <= reach, cost, torch.inf)
    return cost


def greedy_global(cost: torch.Tensor) -> torch.Tensor:
    """Take the smallest cost again and again; ties go to the smaller column, then row.

    Args:
        cost: (Q, R); infinite where a pair is not allowed.

    Returns:
        int64 (R,): the row given to each column, -1 for none.
    """
    q, r = cost.shape
    match = torch.full((r,), -1, device=cost.device)
    if q == 0 or r == 0:
        return match
    table = cost.T.contiguous()  # (R, Q): row-major order is the order of ties
    index = torch.arange(q * r, device=cost.device).view(r, q)
    columns, rows = torch.arange(r, device=cost.device), torch.arange(q, device=cost.device)
    for _ in range(min(q, r)):
        best = table.amin()
        first = torch.where(table == best, index, q * r).amin()
        j, i = first.div(q, rounding_mode="floor"), first % q
        taken = torch.isfinite(best)
        match = torch.where((columns == j) & taken, i, match)
        used = (columns[:, None] == j) | (rows[None] == i)
        table = torch.where(used & taken, torch.inf, table)
    return match


def greedy_by_score(cost: torch.Tensor) -> torch.Tensor:
    """Columns in order each take the nearest free row (CenterTrack); otherwise as above."""
    q, r = cost.shape
    match = torch.full((r,), -1, device=cost.device)
    if q == 0:
        return match
    rows = torch.arange(q, device=cost.device)
    columns = torch.arange(r, device=cost.device)
    free = torch.ones(q, dtype=torch.bool, device=cost.device)
    for j in range(r):
        open_cost = torch.where(free, cost[:, j], torch.inf)
        best = open_cost.amin()
        i = torch.where(open_cost == best, rows, q).amin()
        taken = torch.isfinite(best)
        match = torch.where((columns == j) & taken, i, match)
        free = free & ~((rows == i) & taken)
    return match


class Association:
    """Gives ids to the detections of successive frames.

    Args:
        gate: "box", "distance" or "none"; see ``pair_costs``. reach: of "distance", in grid units.
        greedy: "global" or "score".
        same_class: detections only continue tracks of their class.
        max_age: frames for which an unmatched track is kept with frozen centre and box; 0 is the
            paper: only frame t - 1 counts.

    Raises:
        InputError: an unknown choice, or a value out of range.
    """

    def __init__(
        self,
        *,
        gate: str = "box",
        reach: float = 0.75,
        greedy: str = "global",
        same_class: bool = False,
        max_age: int = 0,
    ) -> None:
        for key, value, known in (
            ("GATE", gate, ("box", "distance", "none")),
            ("GREEDY", greedy, ("global", "score")),
        ):
            if value not in known:
                raise InputError(
                    f"MODEL.SRNET.TEST.{key} {value!r} is unknown: use {' or '.join(known)}"
                )
        if not reach > 0:
            raise InputError(
                f"MODEL.SRNET.TEST.GATE_DISTANCE is {reach}: give a length above 0 in grid units"
            )
        if max_age < 0:
            raise InputError(f"MODEL.SRNET.TEST.MAX_AGE is {max_age}: give 0 or more frames")
        self.gate, self.reach = gate, reach
        self.pair = greedy_global if greedy == "global" else greedy_by_score
        self.same_class = same_class
        self.max_age = max_age

    def __call__(self, memory: TrackMemory, found: Detections) -> tuple[torch.Tensor, TrackMemory]:
        """Return ids (R,), 0 in absent rows, and the memory for the next frame."""
        allowed = memory.present[:, None] & found.present[None]
        if self.same_class:
            allowed &= memory.classes[:, None] == found.classes[None]
        match = self.pair(torch.where(allowed, self.costs(memory, found), torch.inf))
        known = match >= 0
        fresh = found.present & ~known
        new_ids = memory.next_id + fresh.cumsum(0) - 1
        old_ids = torch.cat([memory.ids, memory.ids.new_zeros(1)])[match]  # -1: the added zero
        ids = torch.where(known, old_ids, torch.where(fresh, new_ids, 0))
        q = len(memory.ids)
        matched = torch.zeros(q + 1, dtype=torch.bool, device=ids.device)
        matched = matched.scatter(0, torch.where(known, match, q), True)[:q]
        return ids, self._remember(memory, found, ids, matched, memory.next_id + fresh.sum())

    def costs(self, memory: TrackMemory, found: Detections) -> torch.Tensor:
        """Costs (Q, R) of all pairs, absent rows included."""
        return pair_costs(
            memory.centre,
            found.tracking,
            memory.box_area,
            found.box_area,
            gate=self.gate,
            reach=self.reach,
        )

    def _remember(
        self,
        memory: TrackMemory,
        found: Detections,
        ids: torch.Tensor,
        matched: torch.Tensor,
        next_id: torch.Tensor,
    ) -> TrackMemory:
        # One block of rows per age: shapes never depend on what was matched.
        blocks = memory.blocks[: self.max_age]
        rows = slice(0, sum(blocks))
        return TrackMemory(
            torch.cat([found.centre, memory.centre[rows]]),
            torch.cat([found.box_area, memory.box_area[rows]]),
            torch.cat([found.shape.box, memory.box[rows]]),
            torch.cat([found.classes, memory.classes[rows]]),
            torch.cat([ids, memory.ids[rows]]),
            torch.cat([found.present, (memory.present & ~matched)[rows]]),
            next_id,
            [len(ids), *blocks],
        )


class CentreAssociation(Association):
    """Links by the distance of the centres themselves: every tracking vector is zero."""

    def costs(self, memory: TrackMemory, found: Detections) -> torch.Tensor:
        return super().costs(memory, replace(found, tracking=found.centre))


class BoxAssociation(Association):
    """Links by the IoU of the boxes in successive frames: what the tracking vectors are up against.

    Args:
        min_iou: pairs below it are not linked.
    """

    def __init__(self, *, min_iou: float = 0.1, **base) -> None:
        super().__init__(**base)
        self.min_iou = min_iou

    def costs(self, memory: TrackMemory, found: Detections) -> torch.Tensor:
        iou = box_iou(memory.box, found.shape.box)
        return torch.where(iou >= self.min_iou, 1 - iou, torch.inf)


def box_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """IoU (Q, R) of boxes (Q, 4) and (R, 4) given by their first and last cells."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    common = (high - low + 1).clamp(min=0).prod(2)
    area_a, area_b = ((c[:, 2:] - c[:, :2] + 1).clamp(min=0).prod(1) for c in (a, b))
    union = area_a[:, None] + area_b[None] - common
    return common / union.clamp(min=1)
