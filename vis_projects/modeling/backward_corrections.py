"""Corrections that are known before a video is run also help the frames before them.

A VOS system works forward: a mask given at frame t changes what comes after it. Where all masks are
known in advance, as in ``run_video``, the last frames between two masks of an object follow the
later one backward: a share of them as large as the later mask's share of both masks' areas. Half of
them follow either of two equal masks, and few a sliver that is seen behind something.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..structures import FrameSource, TrackRecorder, masks_of
from .progress import steps


@dataclass
class Correction:
    """Masks of known objects that were given with frame ``frame``.

    Attributes:
        since: id -> the frame before this one in which the object was given.
        first: id -> the first of the frames that follow this one backward.
    """

    frame: int
    since: dict[int, int]
    first: dict[int, int]


class GivenMasks:
    """Remembers in which frames of a stream each object was given.

    Attributes:
        corrections: those of objects that were known, in order of time.
    """

    def __init__(self) -> None:
        self.corrections: list[Correction] = []
        self._last: dict[int, tuple[int, int]] = {}  # frame and area

    def note(self, t: int, masks: Any, size: tuple[int, int]) -> None:
        """Note the masks given with frame t (see ``VideoModel.step``).

        An empty mask says that an object is absent, which tells nothing of the frames before.
        """
        ids, planes = masks_of(masks, size)
        areas = {i: n for i, n in zip(ids, planes.flatten(1).sum(1).tolist()) if n}
        since, first = {}, {}
        for i, area in areas.items():
            if i in self._last:
                since[i], before = self._last[i]
                first[i] = since[i] + (t - since[i]) * before // (before + area) + 1
        if since:
            self.corrections.append(Correction(t, since, first))
        self._last.update({i: (t, area) for i, area in areas.items()})


def follow_backward(
    model: Any, source: FrameSource, correction: Correction, recorder: TrackRecorder
) -> None:
    """Let the last frames before a correction follow it.

    The model begins anew with that earlier frame and the corrected one, both as recorded, as its
    references, and goes backward from the corrected one; only the corrected objects change.

    Args:
        model: an online VideoModel that takes masks; its stream is over.
        recorder: holds the video's results, which are replaced.
    """
    t = correction.frame
    places = range(t - 1, min(correction.first.values()) - 1, -1)
    if not places:
        return
    model.begin(recorder.info)
    for reference in (max(correction.since.values()), t):
        model.segment(source[reference], recorder.masks_at(reference))
    for index in steps(places, len(places), "frames before a correction"):
        result = model.segment(source[index])
        recorder.replace(result, [i for i, first in correction.first.items() if index >= first])
