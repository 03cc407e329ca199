"""Size, place and motion of the instances of a frame (Algorithm 1, lines 9 to 11).

Letters: R rows (instances), C classes, h x w map (stride 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .head_maps import HeadMaps
from .spatial_grid import cell_size, to_grid


@dataclass
class MaskShape:
    """Sizes and places of masks; rows of empty masks hold zeros.

    Attributes:
        area: float64 (R,), cells. mean: float64 (R, 2), mean column and row of the mask's cells.
        box: int64 (R, 4), first and last column and row, x0, y0, x1, y1, all inclusive.
    """

    area: torch.Tensor
    mean: torch.Tensor
    box: torch.Tensor

    @property
    def height(self) -> torch.Tensor:
        """Rows of the box."""
        return self.box[:, 3] - self.box[:, 1] + 1

    @property
    def width(self) -> torch.Tensor:
        """Columns of the box."""
        return self.box[:, 2] - self.box[:, 0] + 1


def measure(masks: torch.Tensor) -> MaskShape:
    """Measure masks, bool (R, h, w)."""
    per_column, per_row = masks.sum(1).double(), masks.sum(2).double()
    area = per_row.sum(1)
    mean, low, high = [], [], []
    for counts in (per_column, per_row):
        n = counts.shape[1]
        index = torch.arange(n, device=masks.device)
        mean.append((counts * index).sum(1) / area.clamp(min=1))
        low.append(torch.where(counts > 0, index, n).amin(1).clamp(max=n - 1))
        high.append(torch.where(counts > 0, index, 0).amax(1))
    return MaskShape(area, torch.stack(mean, 1), torch.stack([*low, *high], 1))


def snap_to_mask(points: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Move points (R, 2) = (column, row) to the nearest cell of their mask, the first on ties."""
    h, w = masks.shape[-2:]
    columns = torch.arange(w, device=masks.device, dtype=points.dtype)
    rows = torch.arange(h, device=masks.device, dtype=points.dtype)
    distance = (rows - points[:, 1:]).square()[:, :, None] + (
        (columns - points[:, :1]).square()[:, None, :]
    )
    distance = torch.where(masks, distance, torch.inf).flatten(1)
    index = torch.arange(h * w, device=masks.device)
    nearest = torch.where(distance == distance.amin(1, keepdim=True), index, h * w).amin(1)
    nearest = nearest.clamp(max=h * w - 1)
    found = torch.stack([nearest % w, nearest.div(w, rounding_mode="floor")], 1)
    return found.to(points.dtype)


@dataclass
class Detections:
    """The instances of one frame, before and after they have ids.

    Attributes:
        present: bool (R,); False rows are padding (on devices where R cannot depend on the data).
        scores: (R,) objectness of the seed. shape: of the masks.
        point: (R, 2) fractional cell index of the centre. centre: (R, 2) in grid units.
        tracking: (R, 2) where the centre was in the previous frame, in grid units.
        box_area: (R,) in squared grid units.
        category_sums: (R, C) sum over the mask of the class probabilities, or None.
        ids: int64 (R,), 0 in absent rows; None before association.
    """

    present: torch.Tensor
    scores: torch.Tensor
    shape: MaskShape
    point: torch.Tensor
    centre: torch.Tensor
    tracking: torch.Tensor
    box_area: torch.Tensor
    category_sums: torch.Tensor | None = None
    ids: torch.Tensor | None = None

    @property
    def classes(self) -> torch.Tensor:
        """The likeliest class of each in this frame, int64 (R,); 0 without a category head."""
        if self.category_sums is None:
            return torch.zeros_like(self.present, dtype=torch.int64)
        return self.category_sums.argmax(1)


def describe(
    masks: torch.Tensor,
    present: torch.Tensor,
    scores: torch.Tensor,
    maps: HeadMaps,
    *,
    snap: bool = False,
) -> Detections:
    """Find centre, tracking vector, box area and class evidence of masks, bool (R, h, w).

    Args:
        snap: take the mask cell nearest to the mass centre instead of the mass centre.
    """
    h, w = masks.shape[-2:]
    shape = measure(masks)
    point = snap_to_mask(shape.mean, masks) if snap else shape.mean
    centre = to_grid(point, h, w).float()
    cell_w, cell_h = cell_size(h, w)
    sums = None
    if maps.category is not None:
        sums = masks.flatten(1).float() @ maps.category.flatten(1).T
    return Detections(
        present=present,
        scores=scores,
        shape=shape,
        point=point,
        centre=centre,
        tracking=centre + maps.tracking_at(point.float()),
        box_area=(shape.width * cell_w * (shape.height * cell_h)).float(),
        category_sums=sums,
    )
