"""Ground-truth masks in the form in which the mask losses want them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.structures import BitMasks, Instances, PolygonMasks


def with_bitmasks(instances: Instances) -> Instances:
    """Give the same ground truth with polygons drawn as bitmaps."""
    if not (instances.has("gt_masks") and isinstance(instances.gt_masks, PolygonMasks)):
        return instances
    drawn = Instances(instances.image_size, **instances.get_fields())
    drawn.gt_masks = BitMasks.from_polygon_masks(
        instances.gt_masks.polygons, *instances.image_size
    ).to(instances.gt_boxes.device)
    return drawn


def sampled_masks(
    instances: Sequence[Instances], padded_size: tuple[int, int], stride: int
) -> torch.Tensor:
    """Masks of all objects of a batch on the grid of the logits: float (G, H/stride, W/stride).

    Pixels ``[stride // 2 :: stride]`` of the masks padded to the input's size, no averaging.
    """
    h, w = (n // stride for n in padded_size)
    start = stride // 2
    masks = []
    for image in instances:
        sampled = image.gt_masks.tensor[:, start::stride, start::stride]
        full = sampled.new_zeros((len(sampled), h, w))
        full[:, : sampled.shape[1], : sampled.shape[2]] = sampled
        masks.append(full)
    return torch.cat(masks).float()
