"""Label propagation in place of target models (ours, not in the paper).

Coarse scores are the shares of labels that nearest neighbours among the trunk's features carry on
(``modeling/matching_memory``); the segmentation network refines them. What it makes of them is not
carried on: matching follows an object as if the network were not there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..modeling import MatchingMemory, stage
from ..structures import Frame
from .merging import plane_labels
from .tracker import Features, ObjectTracker, Segmented


@dataclass
class Matched(Segmented):
    """A frame after the networks.

    Attributes:
        compared: what the memory compares, (C, h, w).
        soft: the share of each label, (1 + N, h, w); None without objects.
    """

    compared: Tensor
    soft: Tensor | None


class MatchingTracker(ObjectTracker):
    """Tracks with a memory of labelled frames, one for all objects."""

    def __init__(self, *networks: Any, memory: MatchingMemory, **options: Any) -> None:
        self.memory = memory
        super().__init__(*networks, **options)

    def reset(self, size: tuple[int, int]) -> None:
        super().reset(size)
        self.memory.reset()

    @property
    def ids(self) -> list[int]:
        return self.memory.ids

    def cells(self, features: Features) -> tuple[int, int]:
        return tuple(compared(self.memory, features).shape[-2:])

    def look(self, frame: Frame) -> Matched:
        with stage("backbone"), self.autocast():
            features = self.features([frame])
        with stage("target_model"):
            x = compared(self.memory, features)
            soft = self.memory.propagate(x) if self.ids else None
        if soft is None:
            probabilities = torch.zeros(0, *self.size, device=self.device)
        else:
            probabilities = self.refine_all(soft[1:, None], features)
        return Matched(frame, features, probabilities, x, soft)

    def remember(
        self,
        seen: Matched,
        planes: Tensor,
        *,
        entering: Sequence[int] = (),
        masks: Tensor | None = None,
        corrected: Sequence[int] = (),
        corrections: Tensor | None = None,
        reference: bool = False,
        untouched: bool = False,
    ) -> None:
        """See ``ObjectTracker.remember``; frames with given masks or ``reference`` last."""
        with stage("target_update"):
            if untouched:
                self.memory.remember(seen.compared, soft=seen.soft, lasting=reference)
                return
            labels = self._rows(planes)
            predicted = self._rows(self.merge(seen.probabilities)[1:])
            for n, mask in enumerate(() if masks is None else masks):
                mask = mask.to(labels.device, non_blocking=True)
                labels = torch.where(mask, 1 + len(planes) + n, labels)
            rows = torch.arange(1 + len(planes) + len(entering), device=labels.device)
            self.memory.remember(
                seen.compared,
                soft=seen.soft,
                decided=labels[None] == rows[:, None, None],
                differs=labels != predicted,
                entering=entering,
                lasting=reference or bool(corrected),
            )

    def _rows(self, planes: Tensor) -> Tensor:
        """Return the row (H, W) of merged planes (N, H, W) that has each pixel, 0 background."""
        ground = (planes == 0).all(0, keepdim=True).to(planes.dtype)
        return plane_labels(torch.cat([ground, planes]), passes=self.merge_passes)

    def remove(self, ids: Sequence[int]) -> None:
        self.memory.remove(ids)


def compared(memory: MatchingMemory, features: Features, item: int = 0) -> Tensor:
    """Return what a memory compares of one image's features; ``layer3`` is its ``res3``."""
    maps = {f"res{name[-1]}": x[item : item + 1] for name, x in features.items()}
    return memory.features(maps)


@torch.no_grad()
def matched_scores(
    matching: MatchingMemory, features: Features, masks: Tensor
) -> Callable[[Features], Tensor]:
    """Start one memory for each of B reference frames, with masks bool (B, H, W).

    Returns:
        A function from the features of B later frames to scores (B, 1, h, w); called frame after
        frame, it carries labels on.
    """
    memories = [copy.copy(matching) for _ in masks]
    for item, (memory, mask) in enumerate(zip(memories, masks)):
        memory.reset()
        decided = torch.stack([~mask, mask])
        memory.remember(compared(memory, features, item), decided=decided, entering=[1])

    @torch.no_grad()
    def scores(features: Features) -> Tensor:
        found = []
        for item, memory in enumerate(memories):
            x = compared(memory, features, item)
            soft = memory.propagate(x)
            memory.remember(x, soft=soft)
            found.append(soft[1:])
        return torch.stack(found)

    return scores
