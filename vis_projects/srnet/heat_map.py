"""The heat map H(t-1) that tells the tracking head where objects were (SRNet, section 3.1).

Letters: N objects; h x w map; box sides in cells. The radius rule is CornerNet's in the form
that CenterTrack uses.
"""

from __future__ import annotations

import torch

_MIN_OVERLAP = 0.7


def gaussian_radius(box_h: torch.Tensor, box_w: torch.Tensor) -> torch.Tensor:
    """Radius in cells, float64, before truncation: the smallest of CornerNet's three cases."""
    h, w = box_h.double(), box_w.double()
    m = _MIN_OVERLAP
    b = h + w
    r1 = (b + torch.sqrt(b * b - 4 * (w * h * (1 - m) / (1 + m)))) / 2
    b = 2 * (h + w)
    r2 = (b + torch.sqrt(b * b - 16 * ((1 - m) * w * h))) / 2
    b = -2 * m * (h + w)
    r3 = (b + torch.sqrt(b * b - 16 * m * ((m - 1) * w * h))) / 2
    return torch.minimum(torch.minimum(r1, r2), r3)


def render_heat_map(
    centres: torch.Tensor,
    box_h: torch.Tensor,
    box_w: torch.Tensor,
    size: tuple[int, int],
    *,
    present: torch.Tensor | None = None,
    bowl: float = 0.0,
) -> torch.Tensor:
    """Return H (1, h, w) in [0, 1]; overlapping objects by maximum.

    Args:
        centres: (N, 2) mass centres as fractional cell indices (column, row).
        box_h, box_w: (N,) rows and columns of the objects' boxes.
        present: (N,) bool; rows that are False are not drawn.
        bowl: above 0, in place of bells 1 - (d / bowl)^2 up to ``bowl`` cells from every centre,
            whatever the object's size. Its gradient is linear in the way to the centre, so that a
            3 x 3 window tells the way.
    """
    h, w = size
    device = centres.device
    if len(centres) == 0:
        return torch.zeros((1, h, w), device=device)
    if bowl > 0:
        return _bowls(centres, size, bowl, present)
    radius = gaussian_radius(box_h, box_w).trunc().clamp(min=0)
    spread = (2 * radius + 1) / 6
    peak = (centres.double() + 0.5).floor()
    columns = _bell(torch.arange(w, device=device), peak[:, 0], radius, spread)
    rows = _bell(torch.arange(h, device=device), peak[:, 1], radius, spread)
    if present is not None:
        rows = rows * present[:, None]
    return (rows[:, :, None] * columns[:, None, :]).amax(0, keepdim=True)


def _bowls(
    centres: torch.Tensor, size: tuple[int, int], radius: float, present: torch.Tensor | None
) -> torch.Tensor:
    columns, rows = (torch.arange(n, device=centres.device).double() for n in reversed(size))
    x, y = centres.double()[:, :, None].unbind(1)
    square = (rows - y).square()[:, :, None] + (columns - x).square()[:, None, :]
    height = (1 - square / radius**2).clamp(min=0).float()
    if present is not None:
        height = height * present[:, None, None]
    return height.amax(0, keepdim=True)


def _bell(
    index: torch.Tensor, peak: torch.Tensor, radius: torch.Tensor, spread: torch.Tensor
) -> torch.Tensor:
    d = index.double()[None] - peak[:, None]
    value = torch.exp(-(d * d) / (2 * spread * spread)[:, None])
    # In float32 from here: the product of two factors is exact to 1e-7.
    return torch.where(d.abs() <= radius[:, None], value, 0.0).float()


def disturb(
    centres: torch.Tensor,
    box_h: torch.Tensor,
    box_w: torch.Tensor,
    *,
    jitter: float = 0.05,
    drop: float = 0.4,
    duplicate: float = 0.1,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Training noise (CenterTrack's): centres at test come from predictions, not from labels.

    Peaks move by N(0, jitter * side); each object is left out with probability ``drop``; with
    probability ``duplicate`` a second peak appears near the true centre. Random numbers are drawn
    on the CPU.

    Returns:
        centres (2N, 2), box_h (2N,), box_w (2N,) and ``present`` (2N,) for ``render_heat_map``.
    """
    n = len(centres)
    noise = torch.randn((2, n, 2), generator=generator).to(centres)
    chance = torch.rand((2, n), generator=generator).to(centres.device)
    scale = jitter * torch.stack([box_w, box_h], -1).to(centres)
    moved = torch.cat([centres + noise[0] * scale, centres + noise[1] * scale])
    kept = chance[0] >= drop
    present = torch.cat([kept, kept & (chance[1] < duplicate)])
    return moved, box_h.repeat(2), box_w.repeat(2), present
