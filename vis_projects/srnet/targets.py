"""Targets at stride 4 from a pair of annotated frames, and the heat map of the first.

Letters: N instances of frame t, h x w cells, H x W pixels (padded).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.structures import Instances
from torch.nn import functional as F

from .criterion import FrameTargets
from .heat_map import disturb, render_heat_map
from .instances import MaskShape, measure, snap_to_mask

STRIDE = 4


@dataclass(frozen=True)
class HeatMapNoise:
    """How H(t - 1) is drawn in training: see ``heat_map.disturb``; ``bowl`` is not noise, see
    ``render_heat_map``."""

    jitter: float = 0.05
    drop: float = 0.4
    duplicate: float = 0.1
    bowl: float = 0.0


@dataclass(frozen=True)
class TrackingPoints:
    """Where else than at the centre the tracking vectors are learned.

    Attributes:
        count: points per instance; 0 is the paper.
        spread: their standard deviation round the centre, share of the box's sides.
    """

    count: int = 0
    spread: float = 0.1

    def draw(self, centres: torch.Tensor, shape: MaskShape) -> torch.Tensor | None:
        """Return points (N, count, 2) round centres (N, 2), drawn on the CPU."""
        if self.count == 0:
            return None
        sides = self.spread * torch.stack([shape.width, shape.height], -1).to(centres)
        noise = torch.randn((len(centres), self.count, 2)).to(centres)
        return centres[:, None] + noise * sides[:, None]


def at_stride(masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Cells more than half covered: masks bool (N, H', W') to (N, h, w) after padding to ``size``.

    Disjoint masks stay disjoint: no two can cover more than half of a cell.
    """
    n, height, width = masks.shape
    masks = F.pad(masks.float(), (0, size[1] - width, 0, size[0] - height))
    if n == 0:
        return masks.new_zeros((0, size[0] // STRIDE, size[1] // STRIDE), dtype=torch.bool)
    return F.avg_pool2d(masks[:, None], STRIDE)[:, 0] > 0.5


def one_owner(masks: torch.Tensor, areas: torch.Tensor) -> torch.Tensor:
    """Give every cell that several masks claim to the smallest of them, the first on ties.

    Annotated masks may overlap (COCO's do), but a cell of SRNet has one embedding, one objectness
    and one class; and the smaller of two overlapping objects is as a rule the one in front.

    Args:
        masks: bool (N, h, w). areas: (N,), of the masks before they were cut to cells.
    """
    order = areas.argsort(stable=True)
    smallest_first = masks[order]
    claims = smallest_first.cumsum(0, dtype=torch.int32)
    owned = torch.empty_like(masks)
    owned[order] = smallest_first & (claims == 1)
    return owned


def owned_cells(
    instances: Instances, size: tuple[int, int], device: torch.device | str
) -> torch.Tensor:
    """Return the disjoint masks (N, h, w) at stride 4 of annotated instances."""
    masks = instances.gt_masks.tensor.to(device)
    return one_owner(at_stride(masks, size), masks.flatten(1).sum(1))


def tracking_centres(masks: torch.Tensor, shape: MaskShape, *, snap: bool) -> torch.Tensor:
    """Centres (N, 2) of masks (N, h, w) as inference finds them: mass centre, or nearest cell."""
    centres = shape.mean.float()
    return snap_to_mask(centres, masks) if snap else centres


def frame_targets(
    current: Instances,
    previous: Instances,
    size: tuple[int, int],
    *,
    valid: torch.Tensor | None = None,
    learn_background: bool = True,
    first: bool = False,
    snap: bool = False,
    points: TrackingPoints = TrackingPoints(),
    device: torch.device | str = "cpu",
) -> FrameTargets:
    """Return the targets of frame t.

    Args:
        current, previous: of frames t and t - 1, with ``gt_masks``, ``gt_classes``, ``gt_ids``.
        size: (H, W) of the padded network input.
        valid: bool (H', W'), where the picture of frame t is to be learned from; padding is not.
        learn_background: cells outside all instances are background; False: unknown.
        first: train as a first frame, without tracking.
        snap: see ``MODEL.SRNET.TEST.CENTER``.
        points: see there.
    """
    masks = owned_cells(current, size, device)
    image_size = current.image_size
    inside = torch.ones(image_size, dtype=torch.bool) if valid is None else valid
    usable = at_stride(inside[None].to(device), size)[0]
    masks = masks & usable
    kept = masks.flatten(1).any(1)
    masks = masks[kept]
    classes = current.gt_classes.to(device)[kept]
    ids = current.gt_ids.to(device)[kept]
    now = measure(masks)
    centres = tracking_centres(masks, now, snap=snap)
    before = owned_cells(previous, size, device)
    shape = measure(before)
    seen = shape.area > 0
    same = (ids[:, None] == previous.gt_ids.to(device)[None]) & seen[None]
    if same.shape[1]:
        last = tracking_centres(before, shape, snap=snap)[same.int().argmax(1)]
    else:
        last = torch.zeros_like(centres)
    return FrameTargets(
        masks=masks,
        classes=classes,
        valid=usable,
        obj_valid=usable if learn_background else masks.any(0),
        centres=centres,
        previous=last,
        in_both=same.any(1) & (not first),
        around=points.draw(centres, now),
    )


def training_heat_map(
    previous: Instances,
    size: tuple[int, int],
    noise: HeatMapNoise,
    *,
    snap: bool = False,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Return the disturbed H(t - 1) (1, h, w) from the labels of frame t - 1."""
    masks = owned_cells(previous, size, device)
    shape = measure(masks)
    moved, height, width, present = disturb(
        tracking_centres(masks, shape, snap=snap),
        shape.height,
        shape.width,
        jitter=noise.jitter,
        drop=noise.drop,
        duplicate=noise.duplicate,
    )
    present = present & (shape.area > 0).repeat(2)
    cells = (size[0] // STRIDE, size[1] // STRIDE)
    return render_heat_map(moved, height, width, cells, present=present, bowl=noise.bowl)
