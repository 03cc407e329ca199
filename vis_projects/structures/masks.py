"""Binary masks as COCO run-length encodings, packed bits and label maps.

Letters: N masks, H rows, W columns. An *RLE* is COCO's compressed form
``{"size": [H, W], "counts": str}`` (runs in column-major order).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pycocotools import mask as mask_util

RLE = dict[str, Any]


@dataclass(frozen=True)
class PackedMasks:
    """Masks as bits, eight to a byte, ready to leave the device in one copy.

    Attributes:
        bits: uint8 tensor (N, ceil(H * W / 8)); bits in column-major pixel order, as RLE wants.
        size: (H, W).
    """

    bits: torch.Tensor
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.bits)


def pack_masks(masks: torch.Tensor) -> PackedMasks:
    """Pack boolean masks (N, H, W) on their own device, without synchronising."""
    n, h, w = masks.shape
    flat = masks.transpose(1, 2).reshape(n, h * w).to(torch.uint8)
    padding = -(h * w) % 8
    if padding:
        flat = torch.nn.functional.pad(flat, (0, padding))
    weights = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8)
    weights = weights.to(masks.device, non_blocking=True)
    bits = (flat.view(n, (h * w + padding) // 8, 8) * weights).sum(-1, dtype=torch.uint8)
    return PackedMasks(bits, (h, w))


def encode_packed(packed: PackedMasks) -> list[RLE]:
    """Turn packed bits that are on the host into one RLE per mask; an empty mask stays an RLE."""
    h, w = packed.size
    if len(packed) == 0:
        return []
    flat = np.unpackbits(packed.bits.numpy(), axis=1, count=h * w)
    columns = flat.reshape(-1, w, h).transpose(2, 1, 0)  # (H, W, N), Fortran order, no copy
    return [_as_text(rle) for rle in mask_util.encode(columns)]


def encode_masks(masks: torch.Tensor | np.ndarray) -> list[RLE]:
    """Encode boolean masks (N, H, W), tensor or array."""
    if isinstance(masks, torch.Tensor):
        masks = masks.detach().cpu().numpy()
    if len(masks) == 0:
        return []
    columns = np.asfortranarray(np.asarray(masks != 0, np.uint8).transpose(1, 2, 0))
    return [_as_text(rle) for rle in mask_util.encode(columns)]


def _as_text(rle: RLE) -> RLE:
    counts = rle["counts"]
    return {
        "size": list(rle["size"]),
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }


def decode_mask(rle: RLE) -> np.ndarray:
    """Decode one RLE to a boolean array (H, W)."""
    return mask_util.decode(rle).astype(bool)


def decode_masks(rles: Sequence[RLE | None], size: tuple[int, int]) -> np.ndarray:
    """Decode RLEs to a boolean array (N, H, W); ``None`` gives an empty mask."""
    out = np.zeros((len(rles), *size), bool)
    present = [i for i, rle in enumerate(rles) if rle is not None]
    if present:
        out[present] = mask_util.decode([rles[i] for i in present]).transpose(2, 0, 1)
    return out


def mask_area(rle: RLE | None) -> int:
    """Return the number of pixels of an RLE; 0 for ``None``."""
    return 0 if rle is None else int(mask_util.area(rle))


def label_map_to_masks(label_map: torch.Tensor | np.ndarray, ids: Sequence[int]) -> torch.Tensor:
    """Split a label map (H, W) into boolean masks (len(ids), H, W) on the map's device."""
    labels = torch.as_tensor(label_map)
    wanted = on_device(ids, labels.device)
    return labels.to(torch.int64)[None] == wanted[:, None, None]


def on_device(numbers: Sequence[int], device: torch.device | str) -> torch.Tensor:
    """Return int64 numbers of the host on a device, without waiting for it."""
    return torch.tensor(list(numbers), dtype=torch.int64).to(device, non_blocking=True)


def masks_to_label_map(masks: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
    """Paint masks (N, H, W) in order, later over earlier, into an int64 label map (H, W).

    Vectorised: the last mask that covers a pixel is the largest index among those covering it.
    """
    n = len(masks)
    if n == 0:
        return torch.zeros(masks.shape[-2:], dtype=torch.int64, device=masks.device)
    rank = torch.arange(1, n + 1, device=masks.device)
    top = (masks.to(torch.int64) * rank[:, None, None]).amax(0)
    lookup = torch.tensor([0, *ids], dtype=torch.int64).to(masks.device, non_blocking=True)
    return lookup[top]


def masks_of(
    new_masks: dict[int, Any] | torch.Tensor | np.ndarray, size: tuple[int, int]
) -> tuple[list[int], torch.Tensor]:
    """Normalise the two forms in which masks are handed over.

    Args:
        new_masks: ``{id: mask (H, W)}`` or a label map (H, W) whose values are ids, 0 background;
            255 is void in a label map and is ignored when smaller ids exist beside it.
        size: (H, W) that the masks must have.

    Returns:
        ids in ascending order and boolean masks (N, H, W) on the CPU or the input's device.
        Masks of a dict may be empty; a label map gives only ids that have a pixel.

    Raises:
        ValueError: wrong size, an id that is not positive.
    """
    if isinstance(new_masks, dict):
        ids = sorted(int(i) for i in new_masks)
        masks = [
            torch.as_tensor(
                np.asarray(new_masks[i])
                if not isinstance(new_masks[i], torch.Tensor)
                else new_masks[i]
            )
            != 0
            for i in ids
        ]
        for i, mask in zip(ids, masks):
            _check_size(mask, size, f"the mask of object {i}")
        stacked = torch.stack(masks) if masks else torch.zeros((0, *size), dtype=torch.bool)
    else:
        labels = torch.as_tensor(new_masks)
        _check_size(labels, size, "the given label map")
        ids = [int(i) for i in torch.unique(labels).tolist() if i != 0]
        if len(ids) > 1 and ids[-1] == 255:
            ids = ids[:-1]
        stacked = label_map_to_masks(labels, ids)
    if ids and ids[0] <= 0:
        raise ValueError(f"object ids must be positive, got {ids[0]}")
    return ids, stacked


def _check_size(mask: torch.Tensor, size: tuple[int, int], what: str) -> None:
    if tuple(mask.shape) != tuple(size):
        raise ValueError(
            f"{what} is {'x'.join(map(str, mask.shape))} but the frames are {size[0]}x{size[1]} "
            "(rows x columns): give a mask of the frame's size"
        )
