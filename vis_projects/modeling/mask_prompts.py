"""Masks that come with a frame: objects that enter, and corrections of known ones."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch

from ..structures import Frame, InputError, label_map_to_masks, masks_of, masks_to_label_map

_log = logging.getLogger(__name__)


@dataclass
class MaskPrompts:
    """The masks of one frame, bool (N, H, W), disjoint.

    Attributes:
        entering, entering_masks: objects that were not known, with at least one pixel.
        corrected, corrected_masks: objects that were; an empty mask says that the object is absent.
    """

    entering: list[int]
    entering_masks: torch.Tensor
    corrected: list[int]
    corrected_masks: torch.Tensor

    def painted(self, labels: torch.Tensor) -> torch.Tensor:
        """Return a label map (H, W) of ids with what was given.

        A corrected object has the pixels of its mask and no others: those that it loses are
        background. The rest of the map stays as it is.
        """
        for i in self.corrected:
            labels = torch.where(labels == i, 0, labels)
        for i, mask in zip(
            (*self.corrected, *self.entering), (*self.corrected_masks, *self.entering_masks)
        ):
            labels = torch.where(mask.to(labels.device, non_blocking=True), i, labels)
        return labels


def mask_prompts(new_masks: Any, frame: Frame, *, known: Collection[int]) -> MaskPrompts:
    """Sort what was given with a frame by whether the object is known.

    Of overlapping masks the higher id has the pixel. The empty mask of an object that is not known
    is skipped with a warning: nothing could follow it.

    Args:
        new_masks: ``{id: mask (H, W)}``, a label map (H, W), or None. A label map says nothing
            about ids that it does not show.
        known: the ids before the frame.

    Raises:
        InputError: a mask of another size than the frame or with channels, an id that is not
            positive.
    """
    none = torch.zeros(0, *frame.size, dtype=torch.bool)
    if new_masks is None:
        return MaskPrompts([], none, [], none)
    try:
        ids, masks = masks_of(new_masks, frame.size)
    except (ValueError, TypeError) as error:
        raise InputError(f"frame {frame.index}: {error}") from None
    if isinstance(new_masks, dict):
        masks = label_map_to_masks(masks_to_label_map(masks, ids), ids)
    entering, corrected = [], []
    for n, (i, some) in enumerate(zip(ids, masks.flatten(1).any(1).tolist())):
        if i in known:
            corrected.append(n)
        elif some:
            entering.append(n)
        else:
            _log.warning("frame %d: the mask of object %d is empty; skipped", frame.index, i)
    return MaskPrompts(
        [ids[n] for n in entering],
        masks[entering],
        [ids[n] for n in corrected],
        masks[corrected],
    )
