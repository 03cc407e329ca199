"""What class a sequence has: the box head's verdict on its masks' boxes (Propose-Reduce, Eq. 2).

Letters: N sequences, T frames, C foreground classes.
"""

from __future__ import annotations

import torch

MEANS = ("visible", "all")


def boxes_of_masks(masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return enlarged tight boxes of boolean masks (N, H, W), without synchronising.

    Returns:
        Boxes (N, 4), XYXY in continuous coordinates: the mask's tight box and one pixel around it,
        clipped to the image; and visible (N,). Boxes of empty masks are the first pixel.
    """
    n, height, width = masks.shape
    columns, rows = masks.any(1), masks.any(2)
    visible = rows.any(1)
    x0, x1 = _ends(columns)
    y0, y1 = _ends(rows)
    boxes = torch.stack(
        [
            (x0 - 1).clamp(min=0),
            (y0 - 1).clamp(min=0),
            (x1 + 2).clamp(max=width),
            (y1 + 2).clamp(max=height),
        ],
        dim=1,
    ).float()
    return torch.where(visible[:, None], boxes, boxes.new_tensor([0, 0, 1, 1])), visible


def _ends(seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """First and last True of every row (N, L)."""
    first = seen.int().argmax(1)
    last = seen.shape[1] - 1 - seen.flip(1).int().argmax(1)
    return first, last


def sequence_class_scores(
    probabilities: torch.Tensor, visible: torch.Tensor, *, mean: str = "visible"
) -> torch.Tensor:
    """Average class probabilities (T, N, C) over frames: (N, C).

    Args:
        visible: (T, N).
        mean: "visible" divides by the number of visible frames (released), "all" by T (Eq. 2).
            A sequence that is never visible has zeros.
    """
    total = (probabilities * visible[..., None]).sum(0)
    if mean == "all":
        return total / max(len(probabilities), 1)
    return total / visible.sum(0).clamp(min=1)[:, None]
