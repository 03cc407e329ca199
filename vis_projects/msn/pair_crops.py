"""What the selection network sees of a pair: crops of image and masks at one size.

Letters: N pairs, H x W pixels of the frame, S side of the crop. No loop over pairs, no
synchronisation.
"""

from __future__ import annotations

import torch

from ..structures import InputError


def tight_boxes(masks: torch.Tensor) -> torch.Tensor:
    """Boxes (N, 4) int64 [x0, y0, x1, y1), of masks (N, H, W); of an empty mask the whole frame."""

    def ends(line: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        length = line.shape[1]
        first = line.to(torch.uint8).argmax(1)
        last = length - line.flip(1).to(torch.uint8).argmax(1)
        return first, last

    (y0, y1), (x0, x1) = ends(masks.any(2)), ends(masks.any(1))
    return torch.stack([x0, y0, x1, y1], 1)


def crop_masks(masks: torch.Tensor, boxes: torch.Tensor, size: int) -> torch.Tensor:
    """Cut boxes (N, 4) out of masks (N, H, W) and resize them to (N, S, S), nearest."""
    rows, columns = _nearest(boxes, size)
    pairs = torch.arange(len(masks), device=masks.device)[:, None, None]
    return masks[pairs, rows[:, :, None], columns[:, None, :]]


def crop_image(image: torch.Tensor, boxes: torch.Tensor, size: int) -> torch.Tensor:
    """Cut boxes (N, 4) out of one float image (3, H, W), resized to (N, 3, S, S), bilinear."""
    (y0, y1, fy), (x0, x1, fx) = _bilinear(boxes, size)
    fy, fx = fy[:, :, None], fx[:, None, :]

    def at(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        return image[:, rows[:, :, None], columns[:, None, :]]

    top = at(y0, x0) * (1 - fx) + at(y0, x1) * fx
    bottom = at(y1, x0) * (1 - fx) + at(y1, x1) * fx
    return (top * (1 - fy) + bottom * fy).transpose(0, 1)


def _nearest(boxes: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns (N, S) that ``F.interpolate(mode="nearest")`` takes from each crop."""
    steps = torch.arange(size, device=boxes.device)
    x0, y0, x1, y1 = boxes[:, :, None].unbind(1)
    return y0 + steps * (y1 - y0) // size, x0 + steps * (x1 - x0) // size


def _bilinear(boxes: torch.Tensor, size: int) -> list[tuple[torch.Tensor, ...]]:
    """Neighbours and weights (N, S) of ``F.interpolate(mode="bilinear")`` for rows, columns."""
    steps = torch.arange(size, device=boxes.device) + 0.5
    x0, y0, x1, y1 = boxes[:, :, None].unbind(1)
    axes = []
    for low, high in ((y0, y1), (x0, x1)):
        length = high - low
        place = (steps * length / size - 0.5).clamp(min=0)
        first = place.long().minimum(length - 1)
        second = (first + 1).minimum(length - 1)
        axes.append((low + first, low + second, place - first))
    return axes


def pair_input(
    image: torch.Tensor,
    masks_a: torch.Tensor,
    masks_b: torch.Tensor,
    *,
    size: int = 256,
    crop: str = "union",
) -> torch.Tensor:
    """Return the network's input (N, 8, S, S) for N pairs of one frame.

    Args:
        image: RGB in [0, 1], (3, H, W).
        masks_a, masks_b: bool (N, H, W).
        crop: "union": the tight box around both masks, the same for A and B; "each": every mask in
            its own tight box; "image": the whole frame.

    Raises:
        InputError: another ``crop``.
    """
    if crop not in ("union", "each", "image"):
        raise InputError(f"MODEL.MSN.SELECTOR.CROP {crop!r} is unknown: use union, each or image")
    boxes = [tight_boxes(masks_a | masks_b)] * 2
    if crop == "image":
        height, width = masks_a.shape[-2:]
        whole = torch.tensor([0, 0, width, height]).to(masks_a.device, non_blocking=True)
        boxes = [whole.expand(len(masks_a), 4)] * 2
    if crop == "each":
        boxes = [tight_boxes(masks_a), tight_boxes(masks_b)]
    parts = []
    for masks, box in zip((masks_a, masks_b), boxes):
        parts.append(crop_image(image, box, size))
        parts.append(crop_masks(masks, box, size)[:, None].to(image.dtype))
    return torch.cat(parts, 1)
