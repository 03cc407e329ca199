"""Masks that a program hands over: checked before the first frame, in words of the argument."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..structures import InputError, object_ids, read_ids
from ..structures.mask_images import VOID

_FORMS = "give a label map (rows, columns) of object ids, {id: mask}, a PIL image or a mask file"


def entering_masks(masks: Any, size: tuple[int, int]) -> dict[int, dict[int, np.ndarray]]:
    """Return ``{frame index: {id: bool mask (H, W)}}``.

    Args:
        masks: None; the first frame's masks as a label map, ``{id: mask}``, PIL image or file; or
            ``{"frames": {index: any of these}}``. A bool map, or one of 0 and 255 only, is object
            1; 255 beside other ids is void.
        size: (H, W) of the frames.

    Raises:
        InputError: another type, size, id or number format; no object at all.
    """
    if masks is None:
        return {}
    if isinstance(masks, Mapping) and set(masks) == {"frames"}:
        by_frame = masks["frames"]
        if not isinstance(by_frame, Mapping):
            raise InputError('masks={"frames": ...}: give {frame index: masks}')
    else:
        by_frame = {0: masks}
    entering = {
        _index(key): objects_of(
            value, size, f"masks of frame {key}" if len(by_frame) > 1 else "masks"
        )
        for key, value in by_frame.items()
    }
    if not any(entering.values()):
        raise InputError("masks holds no object: mark at least one pixel")
    return {index: objects for index, objects in entering.items() if objects}


def objects_of(masks: Any, size: tuple[int, int], what: str = "masks") -> dict[int, np.ndarray]:
    """Return ``{id: bool mask (H, W)}`` of one frame's masks; ids without a pixel are left out."""
    if isinstance(masks, Mapping):
        objects = {}
        for key, mask in masks.items():
            number = _id(key, what)
            objects[number] = _array(mask, size, f"{what}[{key!r}]") != 0
        return {i: mask for i, mask in sorted(objects.items()) if mask.any()}
    labels = _array(masks, size, what)
    ids = np.unique(labels)
    if labels.dtype != bool and (ids < 0).any():
        raise InputError(f"{what} holds the id {ids[0]}: ids are positive, 0 is background")
    labels = object_ids(labels.astype(np.int64), name=what, highest=None)
    ids = np.unique(labels)
    if ids[-1] == VOID:
        ids = ids[:-1]
    return {int(i): labels == i for i in ids if i != 0}


def read_first_mask(file: Path, size: tuple[int, int]) -> np.ndarray:
    """Read a mask of object ids: uint8 (H, W), as ``structures.mask_images`` understands files.

    Raises:
        InputError: missing, no image, values that are no ids, another size than the video, or no
            object.
    """
    labels = object_ids(read_ids(file), name=str(file))
    if labels.shape != tuple(size):
        raise InputError(
            f"{file}: the mask is {labels.shape[0]}x{labels.shape[1]} but the video is "
            f"{size[0]}x{size[1]} (rows x columns): give a mask of the frame's size"
        )
    labels = np.where(labels == VOID, 0, labels)
    if not labels.any():
        raise InputError(f"{file}: the mask is empty: mark at least one object")
    return labels


def _index(key: Any) -> int:
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool) and key >= 0:
        return int(key)
    raise InputError(f'masks={{"frames": ...}}: {key!r} is no frame index (0, 1, ...)')


def _id(key: Any, what: str) -> int:
    if isinstance(key, str) and key.strip().isdigit():
        key = int(key)
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool) and key > 0:
        return int(key)
    raise InputError(f"{what}: {key!r} is no object id; ids are positive integers")


def _array(mask: Any, size: tuple[int, int], what: str) -> np.ndarray:
    if isinstance(mask, (str, Path)):
        return read_first_mask(Path(mask).expanduser(), size)
    if isinstance(mask, torch.Tensor):
        mask = mask.detach().cpu().numpy()
    elif isinstance(mask, Image.Image):
        if mask.mode not in ("1", "L", "P", "I", "I;16"):
            raise InputError(f"{what} is a PIL image of mode {mask.mode}: {_FORMS}")
        mask = np.asarray(mask)
    elif isinstance(mask, (list, tuple)):
        mask = np.asarray(mask)
    if not isinstance(mask, np.ndarray) or mask.dtype == object:
        raise InputError(f"{what} is a {type(mask).__name__}: {_FORMS}")
    if mask.ndim == 3 and mask.shape[-1] == 1:
        mask = mask[..., 0]
    if mask.shape != tuple(size):
        raise InputError(
            f"{what} is {'x'.join(map(str, mask.shape))} but the frames are "
            f"{size[0]}x{size[1]} (rows x columns): give a mask of the frame's size"
        )
    if mask.dtype.kind == "f":
        whole = mask.astype(np.int64)
        if not np.array_equal(whole, mask):
            raise InputError(
                f"{what} is {mask.dtype} with fractions: it looks like probabilities; threshold it"
            )
        return whole
    return mask
