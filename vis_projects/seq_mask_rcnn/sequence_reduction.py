"""Proposal reduction: from many overlapping sequences to few (Propose-Reduce, section 3.2).

Sequences come key frame by key frame; results are in the order of selection. Everything is small
and runs on the host: N sequences, C foreground classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..structures import InputError

MODES = ("hard", "category_aware", "soft", "none")


@dataclass(frozen=True)
class ReductionOptions:
    """Options under ``MODEL.SEQ_MASK_RCNN.REDUCE``.

    Attributes:
        mode: see ``reduce_sequences``.
        score_thresh: of the first step.
        iou_thresh: IoU that removes in "hard" and in the first step of "category_aware".
        sigma: of the soft decay exp(-IoU^2 / sigma).
        max_sequences: "soft" stops there.
        class_score_thresh, class_max: of the second step of "category_aware".
    """

    mode: str = "hard"
    score_thresh: float = 0.05
    iou_thresh: float = 0.5
    sigma: float = 0.5
    max_sequences: int = 20
    class_score_thresh: float = 0.001
    class_max: int = 100

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(
                f"MODEL.SEQ_MASK_RCNN.REDUCE.MODE {self.mode!r} is unknown: use {', '.join(MODES)}"
            )


def hard_nms(
    scores: np.ndarray, ious: np.ndarray, *, score_thresh: float, iou_thresh: float
) -> list[int]:
    """Select sequences greedily; the first is kept whatever it scores.

    Args:
        scores: (N,); the first index wins ties.
        ious: (N, N); a remaining sequence that reaches ``iou_thresh`` is dropped.
    """
    left = np.ones(len(scores), bool)
    kept: list[int] = []
    while left.any():
        best = int(np.where(left, scores, -np.inf).argmax())
        if kept and scores[best] < score_thresh:
            break
        kept.append(best)
        left &= ious[best] < iou_thresh
        left[best] = False
    return kept


def soft_nms(
    scores: np.ndarray, ious: np.ndarray, *, score_thresh: float, sigma: float, max_num: int
) -> tuple[list[int], np.ndarray]:
    """Select sequences; each selection decays the scores of those left (Gaussian Soft-NMS).

    Returns:
        The selected sequences and their scores at that moment, float32.
    """
    scores = np.array(scores, np.float32)
    left = np.ones(len(scores), bool)
    kept: list[int] = []
    values: list[np.float32] = []
    while left.any() and len(kept) < max_num:
        best = int(np.where(left, scores, -np.inf).argmax())
        if scores[best] < score_thresh:
            break
        kept.append(best)
        values.append(scores[best])
        left[best] = False
        decayed = left & (scores >= score_thresh)
        factor = np.exp(-np.square(ious[best]) / sigma)
        scores[decayed] = (scores[decayed] * factor[decayed]).astype(np.float32)
    return kept, np.array(values, np.float32)


def reduce_sequences(
    scores: np.ndarray, ious: np.ndarray, options: ReductionOptions
) -> tuple[list[int], np.ndarray]:
    """Reduce the sequence set.

    Modes: "hard" NMS on the best class score (YouTube-VIS); "category_aware": hard NMS, normally
    with a high IoU, then Soft-NMS within every class (table 5); "soft": Soft-NMS on the best
    score (DAVIS as released); "none": all sequences by descending score (table 4).

    Args:
        scores: foreground class scores, float32 (N, C).
        ious: sequence IoU, (N, N).

    Returns:
        The kept sequences in order, and their class scores (n, C); -1 marks a class that was
        dropped for a sequence. After "soft", the best class carries the decayed score and the
        others are scaled alike.
    """
    scores = np.asarray(scores, np.float32)
    if len(scores) == 0:
        return [], scores
    best = scores.max(1)
    if options.mode == "none":
        order = np.argsort(-best, kind="stable").tolist()
        return order, scores[order]
    if options.mode == "soft":
        kept, values = soft_nms(
            best,
            ious,
            score_thresh=options.score_thresh,
            sigma=options.sigma,
            max_num=options.max_sequences,
        )
        factor = values / np.maximum(best[kept], np.finfo(np.float32).tiny)
        reduced = scores[kept] * factor[:, None]
        reduced[np.arange(len(kept)), scores[kept].argmax(1)] = values
        return kept, reduced
    kept = hard_nms(best, ious, score_thresh=options.score_thresh, iou_thresh=options.iou_thresh)
    reduced = scores[kept]
    if options.mode == "category_aware":
        reduced = _per_class(reduced, ious[np.ix_(kept, kept)], options)
    return kept, reduced


def _per_class(scores: np.ndarray, ious: np.ndarray, options: ReductionOptions) -> np.ndarray:
    """Soft-NMS on every class column; what is not selected becomes -1."""
    out = np.full_like(scores, -1)
    for c in range(scores.shape[1]):
        rows, values = soft_nms(
            scores[:, c],
            ious,
            score_thresh=options.class_score_thresh,
            sigma=options.sigma,
            max_num=options.class_max,
        )
        out[rows, c] = values
    return out
