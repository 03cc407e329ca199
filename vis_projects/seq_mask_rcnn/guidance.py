"""Masks of boxes in the image: guidance for training, proposals at key frames.

Letters: O instances, S side of the mask head's output, H x W pixels of the image.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def paste_in_integer_boxes(
    probabilities: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """Resize masks (O, S, S) bilinearly into their boxes, corners truncated to integers.

    Args:
        boxes: (O, 4), inclusive corners: x1 and x2 are both inside.
        size: (H, W).

    Returns:
        (O, H, W) in [0, 1], 0 outside the boxes.
    """
    if len(boxes) == 0:
        return probabilities.new_zeros((0, *size))
    corners = boxes.trunc()
    x, inside_x = _sampling(corners[:, 0], corners[:, 2], size[1])
    y, inside_y = _sampling(corners[:, 1], corners[:, 3], size[0])
    grid = torch.stack(
        [
            x[:, None, :].expand(-1, size[0], -1),
            y[:, :, None].expand(-1, -1, size[1]),
        ],
        dim=3,
    ).to(probabilities.dtype)
    pasted = F.grid_sample(
        probabilities[:, None], grid, padding_mode="border", align_corners=False
    )[:, 0]
    return pasted * (inside_y[:, :, None] & inside_x[:, None, :])


def _sampling(
    first: torch.Tensor, last: torch.Tensor, length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where pixels 0..length-1 lie in boxes, -1..1 across, and which are inside."""
    pixels = torch.arange(length, dtype=torch.float32, device=first.device)
    extent = (last - first + 1).clamp(min=1)
    offset = pixels[None] - first[:, None]
    inside = (offset >= 0) & (offset < extent[:, None])
    return (offset + 0.5) / extent[:, None] * 2 - 1, inside


def to_grid(masks: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Bring masks (O, h, w) at image resolution to the grid of P2 at stride 4.

    Masks smaller than four times the grid are zero-padded to the right and below; the resize is
    bilinear without antialias: the mean of the central 2 x 2 of every 4 x 4 block.
    """
    h, w = masks.shape[-2:]
    masks = F.pad(masks.float(), (0, 4 * grid[1] - w, 0, 4 * grid[0] - h))
    return F.interpolate(masks[:, None], grid, mode="bilinear", align_corners=False)[:, 0]


def keep_distinct(ious: list[list[float]], threshold: float) -> list[int]:
    """Walk masks in order and drop one whose IoU with a kept one reaches the threshold.

    Args:
        ious: IoU of every pair, a square on the host.
    """
    kept: list[int] = []
    for i, row in enumerate(ious):
        if all(row[j] < threshold for j in kept):
            kept.append(i)
    return kept
