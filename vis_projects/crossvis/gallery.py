"""What is remembered of the tracks: each one's last detection.

Letters: N detections of a frame, K tracks.
"""

from __future__ import annotations

import numpy as np
import torch

from ..structures import InputError
from .association import DISCARDED, RULES, assign


class Gallery:
    """Numbers the detections of a video's frames.

    One host synchronisation per frame: the N decisions.

    Args:
        rule: "crossvis", "masktrack" or "iou" (``association``).
        match_thresh: see ``association.match_by_threshold``.
        max_age: frames after which an unseen track is forgotten; 0: never.
        max_tracks: tracks remembered at a time, those seen last (of equals the older); 0: all.
    """

    def __init__(
        self,
        rule: str = "crossvis",
        *,
        match_thresh: float = 0.4,
        max_age: int = 0,
        max_tracks: int = 0,
    ) -> None:
        if rule not in RULES:
            raise InputError(
                f"MODEL.CROSSVIS.TRACKER.RULE {rule!r} is unknown: use one of {', '.join(RULES)}"
            )
        self.rule = rule
        self.match_thresh = match_thresh
        self.max_age = max_age
        self.max_tracks = max_tracks
        self.reset()

    def reset(self) -> None:
        """Forget all tracks; the next one is number 1."""
        self.next_id = 1
        self.time = 0
        self.ids = np.zeros(0, np.int64)
        self.last_seen = np.zeros(0, np.int64)
        self.boxes: torch.Tensor | None = None
        self.classes: torch.Tensor | None = None
        self.embeddings: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @torch.no_grad()
    def update(
        self,
        boxes: torch.Tensor,
        classes: torch.Tensor,
        scores: torch.Tensor,
        embeddings: torch.Tensor,
    ) -> np.ndarray:
        """Give each detection of the next frame (best first) its id, or ``DISCARDED``: (N,).

        Matches are judged against the tracks as they were before the frame; new tracks are
        numbered in the order of their detections.
        """
        self._forget_old()
        self.time += 1
        if len(boxes) == 0:
            return np.zeros(0, np.int64)
        if self.boxes is None:
            self.boxes, self.classes, self.embeddings = boxes[:0], classes[:0], embeddings[:0]
        rows = assign(
            self.rule,
            self.match_thresh,
            boxes,
            classes,
            scores,
            embeddings,
            self.boxes,
            self.classes,
            self.embeddings,
        )
        rows = rows.cpu().numpy()  # the frame's one synchronisation here
        known = len(self.ids)
        fresh = np.flatnonzero(rows == known)
        ids = np.full(len(rows), DISCARDED)
        ids[fresh] = self.next_id + np.arange(len(fresh))
        matched = np.flatnonzero((rows >= 0) & (rows < known))
        ids[matched] = self.ids[rows[matched]]
        self._remember(rows, matched, fresh, ids[fresh], boxes, classes, embeddings)
        self.next_id += len(fresh)
        return ids

    def _remember(
        self,
        rows: np.ndarray,
        matched: np.ndarray,
        fresh: np.ndarray,
        new_ids: np.ndarray,
        boxes: torch.Tensor,
        classes: torch.Tensor,
        embeddings: torch.Tensor,
    ) -> None:
        """Overwrite matched tracks with their detections and append the new ones."""
        source = np.arange(len(self.ids) + len(fresh))  # row of cat(tracks, detections)
        source[rows[matched]] = len(self.ids) + matched
        source[len(self.ids) :] = len(self.ids) + fresh
        self.last_seen[rows[matched]] = self.time
        self.ids = np.concatenate([self.ids, new_ids])
        self.last_seen = np.concatenate([self.last_seen, np.full(len(fresh), self.time)])
        if 0 < self.max_tracks < len(self.ids):
            newest = np.argsort(-self.last_seen, kind="stable")[: self.max_tracks]
            kept = np.sort(newest)
            source, self.ids, self.last_seen = source[kept], self.ids[kept], self.last_seen[kept]
        self._take(source, boxes, classes, embeddings)

    def _forget_old(self) -> None:
        if self.max_age <= 0 or len(self.ids) == 0:
            return
        kept = np.flatnonzero(self.time - self.last_seen <= self.max_age)
        if len(kept) < len(self.ids):
            self.ids, self.last_seen = self.ids[kept], self.last_seen[kept]
            self._take(kept, self.boxes[:0], self.classes[:0], self.embeddings[:0])

    def _take(
        self,
        source: np.ndarray,
        boxes: torch.Tensor,
        classes: torch.Tensor,
        embeddings: torch.Tensor,
    ) -> None:
        index = torch.from_numpy(source).to(boxes.device, non_blocking=True)
        self.boxes = torch.cat([self.boxes, boxes])[index]
        self.classes = torch.cat([self.classes, classes])[index]
        self.embeddings = torch.cat([self.embeddings, embeddings])[index]
