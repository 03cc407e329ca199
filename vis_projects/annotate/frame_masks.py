"""The masks of one frame: what a person drew, and what a system followed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ..structures.masks import RLE


@dataclass(frozen=True)
class FrameMasks:
    """Masks by object id; what a person drew wins.

    Never changed, only replaced: what ``undo`` remembers of a frame costs one reference.
    """

    drawn: Mapping[int, RLE] = field(default_factory=dict)
    followed: Mapping[int, RLE] = field(default_factory=dict)

    def masks(self) -> dict[int, RLE]:
        return {**self.followed, **self.drawn}

    def put(self, kind: Literal["drawn", "followed"], object_id: int, mask: RLE) -> FrameMasks:
        """Return the frame with another mask of an object."""
        return replace(self, **{kind: {**getattr(self, kind), object_id: mask}})

    def without(self, *ids: int) -> FrameMasks:
        """Return the frame without some objects."""
        return FrameMasks(_without(self.drawn, ids), _without(self.followed, ids))

    def renumbered(self, object_id: int, number: int) -> FrameMasks:
        """Return the frame with an object under another id."""

        def one(masks: Mapping[int, RLE]) -> dict[int, RLE]:
            return {number if i == object_id else i: rle for i, rle in masks.items()}

        return FrameMasks(one(self.drawn), one(self.followed))

    @property
    def bytes(self) -> int:
        """Bytes of the RLEs."""
        rles = (*self.drawn.values(), *self.followed.values())
        return sum(len(rle["counts"]) for rle in rles)


def _without(masks: Mapping[int, RLE], ids: tuple[int, ...]) -> dict[int, RLE]:
    return {i: rle for i, rle in masks.items() if i not in ids}
