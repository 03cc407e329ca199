"""Crossover learning: an instance's filters of one frame find it in the other (section 3.2).

Letters: G objects, P positives of a frame batch (both counted over its images). "A" is the
frame that lends its filters, "B" the one in which they are applied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Instances


def match_objects(here: Sequence[Instances], there: Sequence[Instances]) -> torch.Tensor:
    """For every object of batch ``here``, the index of the same one in batch ``there``, or -1.

    Image b of both batches belongs to one video; ``gt_ids`` name the objects. Indices count over
    the objects of all images: int64 (G,).
    """
    ids_here, image_here = _ids(here)
    ids_there, image_there = _ids(there)
    if len(ids_here) == 0 or len(ids_there) == 0:
        return torch.full_like(ids_here, -1)
    same = (ids_here[:, None] == ids_there) & (image_here[:, None] == image_there)
    found, index = same.max(1)
    return torch.where(found, index, -1)


def _ids(images: Sequence[Instances]) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.cat([image.gt_ids.long() for image in images])
    number = torch.arange(len(images), device=ids.device)
    counts = torch.tensor([len(image) for image in images], device=ids.device)
    return ids, number.repeat_interleave(counts)


@dataclass(frozen=True)
class Borrowed:
    """Who lends filters to whom.

    Attributes:
        lender: (M,) positives of A whose filters are used.
        place: (M,) positives of B that give image, location and level.
        target: (M,) objects of B whose masks supervise.
    """

    lender: torch.Tensor
    place: torch.Tensor
    target: torch.Tensor


def borrow(
    objects_a: torch.Tensor,
    objects_b: torch.Tensor,
    partner: torch.Tensor,
    draw: torch.Tensor,
) -> Borrowed:
    """Pair the positives of A with random positives of the same objects in B (Eqs. 6, 7).

    Args:
        objects_a: (P_a,) object of each positive that may lend its filters.
        objects_b: (P_b,) object of each positive of B.
        partner: (G_a,) index in B of each object of A, or -1 (``match_objects``).
        draw: (P_a,) uniform in [0, 1): which of the object's positives in B is taken; 0 takes
            the first one in flat order.

    Positives whose object is absent from B, or has no positive there, drop out.
    """
    if len(objects_a) == 0 or len(objects_b) == 0:
        none = objects_a.new_zeros(0)
        return Borrowed(none, none, none)
    target = partner[objects_a]
    num_objects = int(max(objects_b.max(), target.max())) + 1
    count = torch.bincount(objects_b, minlength=num_objects)
    order = objects_b.argsort(stable=True)
    start = count.cumsum(0) - count
    lender = ((target >= 0) & (count[target.clamp(min=0)] > 0)).nonzero()[:, 0]
    target = target[lender]
    rank = (draw[lender] * count[target]).long()
    place = order[start[target] + torch.minimum(rank, count[target] - 1)]
    return Borrowed(lender, place, target)
