"""A propagator run by itself: semi-supervised segmentation, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..structures import Frame, FrameResult, VideoInfo, on_device
from .mask_prompts import mask_prompts
from .propagator import Propagation, Propagator
from .video_model import VideoModel


class PropagatingModel(VideoModel):
    """Predicts with ``propagator``, paints the given masks over it, and commits the outcome.

    Masks: an empty one is skipped with a warning; of overlapping ones the higher id has the pixels.
    A mask of an id that is known replaces the id's pixels in its frame, which becomes a lasting
    reference. Without any mask a video has no tracks.
    """

    task = "vos"
    takes_masks = True
    propagator: Propagator  # remembers ``ids``

    def begin(self, info: VideoInfo) -> None:
        self.propagator.reset(info.size)

    @property
    def object_ids(self) -> list[int]:
        return list(self.propagator.ids)

    def drop_objects(self, ids: Sequence[int]) -> None:
        self.propagator.remove(ids)

    def entering_ids(self, given: Sequence[int]) -> list[int]:
        """Return the ids that enter with a frame in which ``given`` unknown ones have a mask."""
        return list(given)

    def frame_scores(
        self, masks: torch.Tensor, propagation: Propagation, ids: Sequence[int]
    ) -> torch.Tensor | None:
        """Return scores (N,) of ``ids`` with ``masks`` (N, H, W) in this frame; None: all 1."""
        return None

    def segment(self, frame: Frame, new_masks: Any = None) -> FrameResult:
        propagation = self.propagator.predict(frame)
        given = mask_prompts(new_masks, frame, known=propagation.ids)
        labels = given.painted(propagation.label_map)
        entering = self.entering_ids(given.entering)
        self.propagator.commit(labels, entering, frame=frame, corrected=given.corrected)
        order = sorted([*propagation.ids, *entering])
        ids = on_device(order, labels.device)
        masks = labels[None] == ids[:, None, None]
        scores = self.frame_scores(masks, propagation, order)
        return FrameResult.build(masks, ids, scores=scores, index=frame.index)
