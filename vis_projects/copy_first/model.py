"""CopyFirst as a system: a VOS tracker whose every frame looks like the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY

from ..modeling import VideoModel, mask_prompts
from ..structures import Frame, FrameResult, VideoInfo, on_device
from .propagator import CopyFirstPropagator


@META_ARCH_REGISTRY.register()
class CopyFirst(VideoModel):
    """Repeats every object's newest given mask in all later frames.

    An object that enters later lies over the older ones. A video without any mask has no tracks.
    """

    task = "vos"
    takes_masks = True
    trainable = False

    @configurable
    def __init__(self, *, propagator: CopyFirstPropagator | None = None, **base: Any) -> None:
        super().__init__(**base)
        self.propagator = propagator or CopyFirstPropagator()

    @classmethod
    def from_config(cls, cfg) -> dict[str, Any]:
        return {**cls.base_config(cfg), "propagator": CopyFirstPropagator(cfg)}

    def begin(self, info: VideoInfo) -> None:
        self.propagator.reset(info.size)

    @property
    def object_ids(self) -> list[int]:
        return list(self.propagator.ids)

    def drop_objects(self, ids: Sequence[int]) -> None:
        self.propagator.remove(ids)

    def segment(self, frame: Frame, new_masks: Any = None) -> FrameResult:
        propagation = self.propagator.predict(frame)
        ids, labels = propagation.ids, propagation.label_map
        given = mask_prompts(new_masks, frame, known=ids)
        labels = given.painted(labels)
        self.propagator.commit(labels, given.entering, frame=frame, corrected=given.corrected)
        all_ids = on_device(sorted([*ids, *given.entering]), labels.device)
        return FrameResult.build(labels[None] == all_ids[:, None, None], all_ids, index=frame.index)
