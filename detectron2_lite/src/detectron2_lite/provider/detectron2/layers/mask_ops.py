"""Pasting box-shaped masks into an image.

N masks, S mask side, H and W image size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Full-image pasting holds an (H, W, 2) grid and an (H, W) result in float32 per mask.
_PASTE_BYTES_PER_PIXEL = 12
_PASTE_MEMORY_LIMIT = 1024**3


def paste_masks_in_image(
    masks: Tensor, boxes: Tensor, image_shape: tuple[int, int], threshold: float = 0.5
) -> Tensor:
    """Paste probabilities (N, S, S) into (H, W) at XYXY ``boxes`` (N, 4) or ``Boxes``.

    Returns bool (N, H, W), probability >= threshold; with a negative threshold uint8 of
    probability * 255. Zero outside the box.
    """
    assert masks.shape[-1] == masks.shape[-2], "masks must be square"
    boxes = getattr(boxes, "tensor", boxes)
    assert len(boxes) == len(masks), f"{len(boxes)} boxes for {len(masks)} masks"
    height, width = (int(side) for side in image_shape)
    dtype = torch.bool if threshold >= 0 else torch.uint8
    out = torch.zeros((len(masks), height, width), dtype=dtype, device=masks.device)
    if masks.device.type == "cpu":
        for i, (x0, y0, x1, y1) in enumerate(_windows(boxes, height=height, width=width)):
            if x0 < x1 and y0 < y1:
                pasted = _sample(masks[i : i + 1], boxes[i : i + 1], window=(x0, y0, x1, y1))
                out[i, y0:y1, x0:x1] = _quantise(pasted, threshold)[0]
        return out
    # Windows would need the boxes on the host: an accelerator pastes whole images in chunks.
    step = max(1, _PASTE_MEMORY_LIMIT // (_PASTE_BYTES_PER_PIXEL * max(1, height * width)))
    for start in range(0, len(masks), step):
        part = slice(start, start + step)
        pasted = _sample(masks[part], boxes[part], window=(0, 0, width, height))
        out[part] = _quantise(pasted, threshold)
    return out


def _quantise(values: Tensor, threshold: float) -> Tensor:
    return values >= threshold if threshold >= 0 else (values * 255).to(torch.uint8)


def _windows(boxes: Tensor, *, height: int, width: int) -> list[list[int]]:
    """Integer windows that hold each box and one pixel around it, inside the image."""
    low = (boxes[:, :2].floor() - 1).clamp(min=0)
    limit = boxes.new_tensor([width, height])
    high = torch.minimum(boxes[:, 2:].ceil() + 1, limit)
    return torch.cat([low, high], dim=1).long().tolist()


def _sample(masks: Tensor, boxes: Tensor, *, window: tuple[int, int, int, int]) -> Tensor:
    """Bilinear samples (N, h, w) at the pixel centres of ``window`` (x0, y0, x1, y1)."""
    x0, y0, x1, y1 = window
    left, top, right, bottom = boxes[:, :, None].unbind(1)
    xs = torch.arange(x0, x1, device=masks.device, dtype=torch.float32) + 0.5
    ys = torch.arange(y0, y1, device=masks.device, dtype=torch.float32) + 0.5
    xs = (xs - left) / (right - left) * 2 - 1
    ys = (ys - top) / (bottom - top) * 2 - 1
    # A box without extent gives infinities, which grid_sample does not take.
    xs = torch.nan_to_num(xs, nan=-2.0, posinf=2.0, neginf=-2.0)
    ys = torch.nan_to_num(ys, nan=-2.0, posinf=2.0, neginf=-2.0)
    count, height, width = len(masks), y1 - y0, x1 - x0
    grid = torch.stack(
        [
            xs[:, None, :].expand(count, height, width),
            ys[:, :, None].expand(count, height, width),
        ],
        dim=3,
    )
    values = masks[:, None] if masks.is_floating_point() else masks[:, None].float()
    return F.grid_sample(values, grid.to(values.dtype), align_corners=False)[:, 0]
