"""Stage 2 of MSN for one frame, on masks alone: association, selection, new objects.

Letters: P propagated masks (track j has row j and label j + 1; an empty row is a track that has
vanished), S segmented masks of the detector, H x W pixels. (MSN, Section 3.1, stage 2.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment

from ..modeling import pairwise_mask_intersection
from ..structures import InputError

# (masks_a (N, H, W), masks_b (N, H, W)) -> bool (N,): take A. Stage 2: A propagated, B segmented.
Chooser = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
NEW_OBJECT_RULES = ("same_class", "any_class", "always")


@dataclass(frozen=True)
class StageTwoRules:
    """Thresholds of stage 2; see ``MODEL.MSN`` for the sources.

    Attributes:
        associate_iou: pairs must exceed it.
        new_max_overlap: share of a new mask that may lie on a track that blocks it.
        new_object_rule: which tracks block a new object: "same_class", "any_class", or "always"
            (none does).
        max_objects: tracks of one direction at most.

    Raises:
        InputError: an unknown rule.
    """

    associate_iou: float = 0.1
    new_max_overlap: float = 0.0
    new_object_rule: str = "same_class"
    max_objects: int = 15

    def __post_init__(self) -> None:
        if self.new_object_rule not in NEW_OBJECT_RULES:
            raise InputError(
                f"MODEL.MSN.NEW_OBJECT_RULE {self.new_object_rule!r} is unknown: use "
                f"{', '.join(NEW_OBJECT_RULES)}"
            )


@dataclass
class FrameDecision:
    """What stage 2 decided for a frame.

    Attributes:
        label: int64 (H, W), 0 background, j + 1 for track j, new tracks counted on.
        iou: float64 (S, P) on the host.
        pairs: (segmented, propagated) rows that belong together.
        took_segmentation: for each pair, whether the segmented mask was taken.
        new: segmented rows that became tracks, in the order of their labels.
    """

    label: torch.Tensor
    iou: torch.Tensor
    pairs: list[tuple[int, int]]
    took_segmentation: list[bool]
    new: list[int]


def mask_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """IoU (N, M) of masks a (N, H, W), b (M, H, W) in float64; 0 where the union is empty."""
    shared = pairwise_mask_intersection(a, b).double()
    area_a, area_b = (m.flatten(1).sum(1).double() for m in (a, b))
    return shared / (area_a[:, None] + area_b[None] - shared).clamp(min=1)


def best_pairs(iou: torch.Tensor, threshold: float) -> list[tuple[int, int]]:
    """Pairs of the assignment with the largest sum of IoU (N, M); then only those above it.

    The assignment sees all pairs: a weak pair can keep a mask from a better partner.
    """
    rows, columns = linear_sum_assignment(iou.numpy(), maximize=True)
    return [(i, j) for i, j in zip(rows.tolist(), columns.tolist()) if iou[i, j] > threshold]


def paint_selected(
    propagated: torch.Tensor,
    segmented: torch.Tensor,
    scores: torch.Tensor,
    tracks: torch.Tensor,
    take: torch.Tensor,
) -> torch.Tensor:
    """Return the label map (H, W) after selection.

    Tracks that keep the propagated mask come first; the others fill their segmented mask only where
    the map is free, the better detection first.

    Args:
        propagated: bool (P, H, W), disjoint.
        segmented: bool (N, H, W) of the N pairs, ``scores`` (N,) their detection scores.
        tracks: (N,) row of ``propagated`` of each pair.
        take: bool (N,), take the segmented mask.
    """
    count = len(propagated)
    labels = torch.arange(1, count + 1, device=propagated.device)
    swapped = torch.zeros(count, dtype=torch.bool, device=propagated.device)
    swapped = swapped.scatter(0, tracks, take)
    kept = propagated & ~swapped[:, None, None]
    label = (kept * labels[:, None, None]).sum(0)
    if len(segmented) == 0:
        return label
    # One maximum over ranks instead of a loop: the best score has the highest rank.
    order = torch.argsort(scores, stable=True, descending=True)
    ranks = torch.arange(len(order), 0, -1, device=order.device)
    top = (segmented[order] & take[order, None, None]) * ranks[:, None, None]
    rank = top.amax(0)
    lookup = torch.cat([labels.new_zeros(1), labels[tracks[order]].flip(0)])
    return torch.where(label == 0, lookup[rank], label)


def admit(
    label: torch.Tensor,
    candidates: torch.Tensor,
    classes: torch.Tensor,
    track_classes: torch.Tensor,
    *,
    room: int,
    rules: StageTwoRules,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Let candidates enter as new tracks, in their order; admitted masks overwrite the map.

    A candidate is kept out if more than ``new_max_overlap`` of it lies on a track that may block
    it, on the map as it stands, tracks admitted before included. Nothing here waits for the
    device: each decision depends on the one before, so this is a loop of tensor operations.

    Args:
        label: int64 (H, W); ``track_classes`` (P,) classes of the labels 1..P.
        candidates: bool (N, H, W), best first; ``classes`` (N,).
        room: tracks that may still enter.

    Returns:
        The map, and bool (N,): admitted.
    """
    device, count = label.device, len(track_classes)
    if room <= 0 or len(candidates) == 0:
        return label, torch.zeros(len(candidates), dtype=torch.bool, device=device)
    owners = torch.full((1 + count + len(candidates),), -1, dtype=torch.int64, device=device)
    owners[1 : 1 + count] = track_classes
    used = torch.tensor(count, device=device)
    admitted = []
    for mask, category in zip(candidates, classes):
        hits = torch.zeros(len(owners), device=device).index_add_(
            0, label.flatten(), mask.flatten().float()
        )
        area = mask.sum()
        blocks = hits.double() > rules.new_max_overlap * area.double()
        if rules.new_object_rule == "same_class":
            blocks = blocks & (owners == category)
        elif rules.new_object_rule == "always":
            blocks = torch.zeros_like(blocks)
        blocks[0] = False
        enters = (area > 0) & ~blocks.any() & (used < count + room)
        used = used + enters
        owners = torch.where(
            enters & (torch.arange(len(owners), device=device) == used), category, owners
        )
        label = torch.where(mask & enters, used, label)
        admitted.append(enters)
    return label, torch.stack(admitted)


def decide_frame(
    propagated: torch.Tensor,
    track_classes: torch.Tensor,
    segmented: torch.Tensor,
    classes: torch.Tensor,
    scores: torch.Tensor,
    *,
    choose: Chooser,
    count: int | None = None,
    rules: StageTwoRules = StageTwoRules(),
) -> FrameDecision:
    """Decide one frame of one direction.

    Args:
        propagated: bool (P, H, W); ``track_classes`` (P,) classes at birth.
        segmented: bool (S, H, W); ``classes``, ``scores`` (S,).
        choose: says for pairs of masks whether the propagated one is better.
        count: tracks so far, P by default; it only limits how many may enter.
        rules: the thresholds.
    """
    iou = mask_iou(segmented, propagated).cpu()
    pairs = best_pairs(iou, rules.associate_iou)
    device = propagated.device
    rows = torch.tensor([i for i, _ in pairs], dtype=torch.int64).to(device, non_blocking=True)
    tracks = torch.tensor([j for _, j in pairs], dtype=torch.int64).to(device, non_blocking=True)
    take = torch.zeros(len(pairs), dtype=torch.bool, device=device)
    if pairs:
        take = ~choose(propagated[tracks], segmented[rows])
    label = paint_selected(propagated, segmented[rows], scores[rows], tracks, take)
    order = torch.argsort(scores, stable=True, descending=True).tolist()
    paired = {i for i, _ in pairs}
    candidates = [i for i in order if i not in paired]
    index = torch.tensor(candidates, dtype=torch.int64).to(device, non_blocking=True)
    room = rules.max_objects - (len(propagated) if count is None else count)
    label, admitted = admit(
        label, segmented[index], classes[index], track_classes, room=room, rules=rules
    )
    outcome = torch.cat([take, admitted]).tolist()
    new = [i for i, enters in zip(candidates, outcome[len(pairs) :]) if enters]
    return FrameDecision(label, iou, pairs, outcome[: len(pairs)], new)


def drop_duplicates(masks: torch.Tensor, scores: torch.Tensor, threshold: float) -> list[int]:
    """Rows of detections (N, H, W) that stay, best first, after mask NMS without classes."""
    order = torch.argsort(scores, stable=True, descending=True)
    close = (mask_iou(masks[order], masks[order]) > threshold).tolist()
    kept: list[int] = []
    for i in range(len(order)):
        if not any(close[i][j] for j in kept):
            kept.append(i)
    return order[torch.tensor(kept, dtype=torch.int64, device=order.device)].tolist()


def class_and_score(detections: Sequence[tuple[int, int, float]]) -> tuple[int, float]:
    """Class and score of a track from its associated detections (frame, class, score).

    The class with the largest sum of scores; its sum over the number of frames that have any
    association.
    """
    sums: dict[int, float] = {}
    for _, category, score in detections:
        sums[category] = sums.get(category, 0.0) + score
    best = max(sums, key=lambda c: (sums[c], -c))
    return best, sums[best] / len({frame for frame, _, _ in detections})
