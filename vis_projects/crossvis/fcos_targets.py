"""Which locations stand for which object, and what they shall predict.

Letters: B images, G objects of all images together, K locations of one image over all levels,
P positives. Boxes are absolute XYXY.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from detectron2.structures import Instances

from ..structures import InputError
from .locations import Cells, cells_at, grid_locations

INF = 1e8


@dataclass
class Targets:
    """Ground truth of all locations of a batch; flat order level, image, row, column.

    Attributes:
        labels: (B*K,) class, or the number of classes for background.
        positive: (P,) flat positions of the locations that stand for an object.
        cells: the positives as cells.
        locations: (P, 2) x, y in pixels.
        distances: (P, 4) left, top, right, bottom in strides.
        centerness: (P,).
        gt_inds: (P,) object, counted over the whole batch.
    """

    labels: torch.Tensor
    positive: torch.Tensor
    cells: Cells
    locations: torch.Tensor
    distances: torch.Tensor
    centerness: torch.Tensor
    gt_inds: torch.Tensor

    def __len__(self) -> int:
        return len(self.positive)


def centre_of_mass(masks: torch.Tensor) -> torch.Tensor:
    """Mean of the pixel indices (x, y) of masks (G, H, W): (G, 2); 0 for an empty mask."""
    columns = masks.sum(1, dtype=torch.float32)
    rows = masks.sum(2, dtype=torch.float32)
    x = torch.arange(masks.shape[2], device=masks.device, dtype=torch.float32)
    y = torch.arange(masks.shape[1], device=masks.device, dtype=torch.float32)
    area = columns.sum(1).clamp(min=1e-6)
    return torch.stack([columns @ x / area, rows @ y / area], 1)


def box_centres(boxes: torch.Tensor) -> torch.Tensor:
    """(G, 2)."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2


class TargetAssigner:
    """FCOS's assignment with centre sampling.

    A location belongs to an object if it lies strictly inside the object's box and inside the
    square of ``radius`` strides around the object's centre (its mask's centre of mass, where
    masks are given), and if its largest distance to a side lies in its level's range. Among
    several objects the smallest box wins.

    Args:
        strides: per level.
        sizes_of_interest: upper limits of the levels' ranges in pixels, the last one is open.
        num_classes: label of the background.
        centre_sampling: without it the whole box counts.
        radius: in strides.
    """

    def __init__(
        self,
        *,
        strides: Sequence[int],
        sizes_of_interest: Sequence[int],
        num_classes: int,
        centre_sampling: bool = True,
        radius: float = 1.5,
    ) -> None:
        if len(sizes_of_interest) != len(strides) - 1:
            raise InputError(
                f"MODEL.FCOS.SIZES_OF_INTEREST has {len(sizes_of_interest)} limits; "
                f"{len(strides)} levels (MODEL.FCOS.FPN_STRIDES) need {len(strides) - 1}"
            )
        self.strides = list(strides)
        limits = [-1.0, *map(float, sizes_of_interest), INF]
        self.ranges = list(pairwise(limits))
        self.num_classes = num_classes
        self.centre_sampling = centre_sampling
        self.radius = radius

    @torch.no_grad()
    def __call__(self, sizes: Sequence[tuple[int, int]], instances: Sequence[Instances]) -> Targets:
        """Assign the locations of levels of (h_l, w_l) cells to the objects of B images.

        ``instances`` carry ``gt_boxes``, ``gt_classes`` and, optionally, ``gt_masks`` (BitMasks).
        """
        device = instances[0].gt_boxes.device
        points = [grid_locations(*hw, s, device) for hw, s in zip(sizes, self.strides)]
        counts = [len(p) for p in points]
        points = torch.cat(points)
        per_location = torch.tensor(
            [[s, *r] for s, r in zip(self.strides, self.ranges)]
        ).repeat_interleave(torch.tensor(counts), 0)
        stride, low, high = per_location.to(device).T
        labels, objects, distances, first = [], [], [], 0
        for image in instances:
            chosen, found, sides = self._assign(image, points, stride, low, high)
            background = torch.full_like(chosen, self.num_classes)
            if len(image):
                classes = torch.where(found, image.gt_classes[chosen], background)
            else:
                classes = background
            labels.append(classes.split(counts))
            objects.append((chosen + first).split(counts))
            distances.append(sides.split(counts))
            first += len(image)
        labels, objects, distances = (
            torch.cat([torch.cat(level) for level in zip(*per_image)])
            for per_image in (labels, objects, distances)
        )
        positive = (labels != self.num_classes).nonzero()[:, 0]
        cells = cells_at(positive, sizes, len(instances))
        sides = distances[positive]
        sides = sides / torch.tensor(self.strides, device=device)[cells.level, None]
        return Targets(
            labels,
            positive,
            cells,
            cells.locations(self.strides),
            sides,
            centerness(sides),
            objects[positive],
        )

    def _assign(
        self,
        image: Instances,
        points: torch.Tensor,
        stride: torch.Tensor,
        low: torch.Tensor,
        high: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Per location of one image: object (K,), whether there is one (K,), distances (K, 4)."""
        if len(image) == 0:
            none = points.new_zeros(len(points))
            return none.long(), none.bool(), points.new_zeros(len(points), 4)
        boxes = image.gt_boxes.tensor
        sides = _sides(points, boxes[None])  # (K, G, 4)
        inner = sides
        if self.centre_sampling:
            if image.has("gt_masks"):
                centres = centre_of_mass(image.gt_masks.tensor)
            else:
                centres = box_centres(boxes)
            reach = (stride * self.radius)[:, None, None]
            square = torch.cat(
                [
                    torch.maximum(centres[None] - reach, boxes[None, :, :2]),
                    torch.minimum(centres[None] + reach, boxes[None, :, 2:]),
                ],
                -1,
            )
            inner = _sides(points, square)
        longest = sides.amax(-1)
        mine = (inner.amin(-1) > 0) & (longest >= low[:, None]) & (longest <= high[:, None])
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        area = torch.where(mine, area[None], torch.full_like(longest, INF))
        smallest, chosen = area.min(1)
        distances = sides.gather(1, chosen[:, None, None].expand(-1, 1, 4))[:, 0]
        return chosen, smallest < INF, distances


def _sides(points: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Distances from points (K, 2) to the sides of boxes (K or 1, G, 4): (K, G, 4)."""
    return torch.cat([points[:, None] - boxes[..., :2], boxes[..., 2:] - points[:, None]], -1)


def centerness(sides: torch.Tensor) -> torch.Tensor:
    """sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) of distances (P, 4) (FCOS, Eq. 3)."""
    l, t, r, b = sides.unbind(1)
    horizontal = torch.minimum(l, r) / torch.maximum(l, r)
    vertical = torch.minimum(t, b) / torch.maximum(t, b)
    return (horizontal * vertical).sqrt()
