"""What a whole track says about its class and score (SRNet, section 3.6, over a video).

Letters: R rows (instances of a frame), C classes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch

from ..structures import InputError

_PENDING_FRAMES = 8  # frames whose copies to the host may be under way


@dataclass
class _Sum:
    category: np.ndarray
    area: float = 0.0
    score: float = 0.0
    frames: int = 0


class TrackEvidence:
    """Sums of class probabilities, areas and objectness per id, kept on the host.

    Frames are copied without waiting; a frame's copy is read a few frames later.

    Args:
        track_score: "obj_cls" multiplies a track's mean objectness by its class probability, "obj"
            does not; "obj_cls_length" multiplies by the share of frames that have the track, too.
            Without it a fragment of one frame may rank above the object's long track.

    Raises:
        InputError: another ``track_score``.
    """

    def __init__(self, track_score: str = "obj_cls") -> None:
        if track_score not in ("obj_cls", "obj", "obj_cls_length"):
            raise InputError(
                f"MODEL.SRNET.TEST.TRACK_SCORE {track_score!r} is unknown: use obj_cls, obj or "
                "obj_cls_length"
            )
        self.track_score = track_score
        self._sums: dict[int, _Sum] = {}
        self._pending: deque = deque()
        self._frames = 0

    def reset(self) -> None:
        """Another video begins."""
        self._sums.clear()
        self._pending.clear()
        self._frames = 0

    def add(
        self,
        ids: torch.Tensor,
        category_sums: torch.Tensor,
        areas: torch.Tensor,
        scores: torch.Tensor,
    ) -> None:
        """Add a frame: ids (R,), 0 in absent rows, category_sums (R, C), areas and scores (R,)."""
        self._frames += 1
        host = [t.to("cpu", non_blocking=True) for t in (ids, category_sums, areas, scores)]
        event = None
        if ids.is_cuda:
            event = torch.cuda.Event()
            event.record()
        self._pending.append((event, host))
        while len(self._pending) > (_PENDING_FRAMES if ids.is_cuda else 0):
            self._fold()

    def _fold(self) -> None:
        event, columns = self._pending.popleft()
        if event is not None:
            event.synchronize()
        for i, category, area, score in zip(*(c.numpy() for c in columns)):
            if i == 0:
                continue
            known = self._sums.setdefault(int(i), _Sum(np.zeros(len(category))))
            known.category += category
            known.area += float(area)
            known.score += float(score)
            known.frames += 1

    def probabilities(self, track_id: int) -> np.ndarray:
        """V (C,): the class probabilities averaged over all cells of the track."""
        while self._pending:
            self._fold()
        known = self._sums[track_id]
        return known.category / max(known.area, 1.0)

    def summarise(self, track_id: int) -> dict[int, float]:
        """Return ``{category: score}`` of a track."""
        probabilities = self.probabilities(track_id)
        known = self._sums[track_id]
        category = int(probabilities.argmax())
        score = known.score / known.frames
        if self.track_score != "obj":
            score *= float(probabilities[category])
        if self.track_score == "obj_cls_length":
            score *= known.frames / self._frames
        return {category: min(max(score, 0.0), 1.0)}
