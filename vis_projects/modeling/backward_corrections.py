"""Corrections that are known before a video is run also help the frames before them.

A VOS system works forward: a mask given at frame t changes what comes after it. Where all masks are
known in advance, as in ``run_video``, the frames between two masks of an object are run again, from
both ends and with both as references. The last of them follow the later mask backward: a share as
large as its share of both masks' areas. Half follow either of two equal masks, and few a sliver
that is seen behind something, which is no reference for the others either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..structures import FrameSource, TrackRecorder, masks_of
from .progress import steps

_SLIVER = 0.1
_OTHERS = 2  # references beside the object's first frame and the two ends


@dataclass
class Correction:
    """Masks of known objects that were given with frame ``frame``.

    Attributes:
        since: id -> the frame before this one in which the object was given.
        first: id -> the first of the frames that follow this one backward.
        given: all frames in which one of the objects is given, slivers apart, in order.
        sliver: one of the masks has less than a tenth of the area of the object's mask before.
    """

    frame: int
    since: dict[int, int]
    first: dict[int, int]
    given: list[int]
    sliver: bool


class GivenMasks:
    """Remembers in which frames of a stream each object was given.

    Attributes:
        corrections: those of objects that were known, in order of time.
    """

    def __init__(self) -> None:
        self.corrections: list[Correction] = []
        self._given: dict[int, list[int]] = {}
        self._last: dict[int, tuple[int, int]] = {}  # frame and area

    def note(self, t: int, masks: Any, size: tuple[int, int]) -> None:
        """Note the masks given with frame t (see ``VideoModel.step``).

        An empty mask says that an object is absent, which tells nothing of the frames before.
        """
        ids, planes = masks_of(masks, size)
        areas = {i: n for i, n in zip(ids, planes.flatten(1).sum(1).tolist()) if n}
        since, first, slivers = {}, {}, set()
        for i, area in areas.items():
            if i in self._last:
                since[i], before = self._last[i]
                first[i] = since[i] + (t - since[i]) * before // (before + area) + 1
                if area < _SLIVER * before:
                    slivers.add(i)
        if since:
            self.corrections.append(Correction(t, since, first, [], bool(slivers)))
        self._last.update({i: (t, area) for i, area in areas.items()})
        for i in areas.keys() - slivers:
            self._given.setdefault(i, []).append(t)
        for correction in self.corrections:
            correction.given = sorted({t for i in correction.since for t in self._given[i]})


def follow_both_ways(
    model: Any, source: FrameSource, correction: Correction, recorder: TrackRecorder
) -> None:
    """Run the frames between a correction and the mask before it again, from both ends.

    The model begins anew, with the object's first frame, the nearest others in which it was given
    and the two ends, all as recorded, as references; only the corrected objects change.

    Args:
        model: an online VideoModel that takes masks; its stream is over.
        recorder: holds the video's results, which are replaced.
    """
    t, before = correction.frame, max(correction.since.values())
    shares = [(i, correction.since[i], first) for i, first in correction.first.items()]
    middle = [first for _, _, first in shares]
    forward = range(before + 1, before if correction.sliver else max(middle))
    backward = range(t - 1, min(middle) - 1, -1)
    others = [g for g in correction.given if g not in (before, t)]
    others = others[:1] + sorted(others[1:], key=lambda g: abs(2 * g - before - t))[:_OTHERS]
    for places, start, end in ((forward, before, t), (backward, t, before)):
        if not places:
            continue
        model.begin(recorder.info)
        for reference in (*others, end, start):
            model.segment(source[reference], recorder.masks_at(reference))
        for index in steps(places, len(places), "frames between two masks"):
            result = model.segment(source[index])
            mine = [i for i, s, f in shares if s < index and (index < f) == (start == before)]
            recorder.replace(result, mine)
