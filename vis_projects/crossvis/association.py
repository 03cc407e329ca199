"""Which detection continues which track.

Letters: N detections of a frame, K tracks, E embedding channels. Boxes are XYXY in output pixels.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

DISCARDED = -1  # a detection that lost its track to a better one
RULES = ("crossvis", "masktrack", "iou")


def box_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """IoU (N, K) of boxes a (N, 4) and b (K, 4) as the association has it: / (union + 1e-5)."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    area_a, area_b = ((x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (a, b))
    return intersection / (area_a[:, None] + area_b - intersection + 1e-5)


def claim(scores: torch.Tensor, best: torch.Tensor, num_tracks: int) -> torch.Tensor:
    """Let every track keep the best of the detections that claim it.

    Args:
        scores: (N,) match score of each detection with what it claims.
        best: (N,) the track that is claimed, ``num_tracks`` for a new one.

    Returns:
        (N,): ``best`` where the detection wins or is new, ``DISCARDED`` where another detection
        has a higher score, or the same and comes first.
    """
    n = len(best)
    order = torch.arange(n, device=best.device)
    top = scores.new_full((num_tracks + 1,), -torch.inf).scatter_reduce(0, best, scores, "amax")
    is_top = scores == top[best]
    candidates = torch.where(is_top, order, n)
    first = torch.full((num_tracks + 1,), n, device=best.device)
    first = first.scatter_reduce(0, best, candidates, "amin")
    wins = (first[best] == order) | (best == num_tracks)
    return torch.where(wins, best, DISCARDED)


def match_by_threshold(scores: torch.Tensor, thresh: float) -> torch.Tensor:
    """Claim the best track of match scores (N, K); below ``thresh`` a new track: (N,)."""
    n, k = scores.shape
    if k == 0:
        return torch.full((n,), 0, dtype=torch.int64, device=scores.device)
    value, best = scores.max(1)
    return claim(value, torch.where(value < thresh, k, best), k)


def released_scores(
    boxes: torch.Tensor,
    classes: torch.Tensor,
    embeddings: torch.Tensor,
    track_boxes: torch.Tensor,
    track_classes: torch.Tensor,
    track_embeddings: torch.Tensor,
) -> torch.Tensor:
    """Cosine of the embeddings + IoU of the boxes, -1 for different classes: (N, K)."""
    cosine = F.normalize(embeddings, dim=1) @ F.normalize(track_embeddings, dim=1).T
    scores = cosine + box_iou(boxes, track_boxes)
    return torch.where(classes[:, None] == track_classes, scores, -1.0)


def iou_scores(
    boxes: torch.Tensor,
    classes: torch.Tensor,
    track_boxes: torch.Tensor,
    track_classes: torch.Tensor,
) -> torch.Tensor:
    """IoU of the boxes, -1 for different classes: (N, K)."""
    iou = box_iou(boxes, track_boxes)
    return torch.where(classes[:, None] == track_classes, iou, -1.0)


def masktrack_scores(
    boxes: torch.Tensor,
    classes: torch.Tensor,
    scores: torch.Tensor,
    embeddings: torch.Tensor,
    track_boxes: torch.Tensor,
    track_classes: torch.Tensor,
    track_embeddings: torch.Tensor,
) -> torch.Tensor:
    """MaskTrack R-CNN's match scores, first column "new": (N, 1 + K).

    log-softmax over {0, e_d . e_k} + ln(detection score) + 2 IoU + 10 [same class]; the column
    of a new object has IoU 0 and counts as of the same class.
    """
    logits = F.pad(embeddings @ track_embeddings.T, (1, 0))
    iou = F.pad(box_iou(boxes, track_boxes), (1, 0))
    same = F.pad((classes[:, None] == track_classes).float(), (1, 0), value=1.0)
    return logits.log_softmax(1) + scores.log()[:, None] + 2 * iou + 10 * same


def assign(
    rule: str,
    thresh: float,
    boxes: torch.Tensor,
    classes: torch.Tensor,
    scores: torch.Tensor,
    embeddings: torch.Tensor,
    track_boxes: torch.Tensor,
    track_classes: torch.Tensor,
    track_embeddings: torch.Tensor,
) -> torch.Tensor:
    """Return per detection the track's row, K for a new track, or ``DISCARDED``: int64 (N,)."""
    k = len(track_boxes)
    if rule == "masktrack":
        matrix = masktrack_scores(
            boxes, classes, scores, embeddings, track_boxes, track_classes, track_embeddings
        )
        value, best = matrix.max(1)
        return claim(value, torch.where(best == 0, k, best - 1), k)
    if rule == "iou":
        return match_by_threshold(iou_scores(boxes, classes, track_boxes, track_classes), thresh)
    matrix = released_scores(
        boxes, classes, embeddings, track_boxes, track_classes, track_embeddings
    )
    return match_by_threshold(matrix, thresh)
