"""Pooling of boxes from a feature pyramid (FPN, Section 4.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from detectron2.layers import ROIAlign, cat, nonzero_tuple
from detectron2.structures import Boxes
from torch import Tensor, nn
from torchvision.ops import RoIPool

__all__ = ["ROIPooler", "assign_boxes_to_levels", "convert_boxes_to_pooler_format"]


def assign_boxes_to_levels(
    box_lists: Sequence[Boxes],
    min_level: int,
    max_level: int,
    canonical_box_size: int,
    canonical_level: int,
) -> Tensor:
    """Level of each box, counted from ``min_level``: int64 (sum N,) (FPN, Eq. 1)."""
    sizes = torch.sqrt(cat([boxes.area() for boxes in box_lists]))
    level = torch.floor(canonical_level + torch.log2(sizes / canonical_box_size + 1e-8))
    return level.clamp(min=min_level, max=max_level).to(torch.int64) - min_level


def convert_boxes_to_pooler_format(box_lists: Sequence[Boxes]) -> Tensor:
    """Rows [image index, x1, y1, x2, y2] of all boxes, (sum N, 5)."""
    boxes = cat([boxes.tensor for boxes in box_lists])
    counts = torch.tensor([len(b) for b in box_lists], device="cpu")
    image = torch.repeat_interleave(torch.arange(len(box_lists), device="cpu"), counts)
    return torch.cat([image.to(boxes)[:, None], boxes], dim=1)


def _build_level_pooler(kind: str, output_size, scale: float, sampling_ratio: int) -> nn.Module:
    if kind == "ROIAlign":
        return ROIAlign(output_size, scale, sampling_ratio, aligned=False)
    if kind == "ROIAlignV2":
        return ROIAlign(output_size, scale, sampling_ratio, aligned=True)
    if kind == "ROIPool":
        return RoIPool(output_size, spatial_scale=scale)
    raise ValueError(f"POOLER_TYPE {kind!r}: choose ROIAlign, ROIAlignV2 or ROIPool")


class ROIPooler(nn.Module):
    """Pools each box from the level that fits its size."""

    def __init__(
        self,
        output_size: int | tuple[int, int],
        scales: Sequence[float],
        sampling_ratio: int,
        pooler_type: str,
        canonical_box_size: int = 224,
        canonical_level: int = 4,
    ):
        """``scales``: 1 / stride of each level, halving; with several the output is square."""
        super().__init__()
        if isinstance(output_size, int):
            output_size = (output_size, output_size)
        assert len(output_size) == 2, f"output_size must be a number or a pair: {output_size}"
        assert len(scales) == 1 or output_size[0] == output_size[1], "several levels: square only"
        levels = [-math.log2(scale) for scale in scales]
        assert all(math.isclose(k, round(k)) for k in levels), f"scales {scales}: powers of two"
        self.output_size = tuple(output_size)
        self.min_level, self.max_level = round(levels[0]), round(levels[-1])
        span = self.max_level - self.min_level + 1
        assert span == len(scales) and self.min_level >= 0, f"scales must halve: {scales}"
        self.canonical_box_size = canonical_box_size
        self.canonical_level = canonical_level
        self.level_poolers = nn.ModuleList(
            _build_level_pooler(pooler_type, self.output_size, scale, sampling_ratio)
            for scale in scales
        )

    def forward(self, x: Sequence[Tensor], box_lists: Sequence[Boxes]) -> Tensor:
        """Pool the boxes of each image from maps (N, C, H_l, W_l): (sum of boxes, C, h, w)."""
        assert len(x) == len(self.level_poolers), (
            f"{len(x)} feature maps for {len(self.level_poolers)} levels"
        )
        assert len(box_lists) == x[0].size(0), f"{len(box_lists)} box lists, {x[0].size(0)} images"
        total = sum(len(boxes) for boxes in box_lists)
        if total == 0:
            # The sum keeps the features in the graph, as a distributed backward pass needs.
            empty = x[0].new_zeros((0, x[0].shape[1], *self.output_size))
            return empty + x[0][:0].sum()
        rois = convert_boxes_to_pooler_format(box_lists)
        if len(self.level_poolers) == 1:
            return self.level_poolers[0](x[0], rois)
        levels = assign_boxes_to_levels(
            box_lists,
            self.min_level,
            self.max_level,
            self.canonical_box_size,
            self.canonical_level,
        )
        out = x[0].new_zeros((total, x[0].shape[1], *self.output_size))
        for level, (feature, pooler) in enumerate(zip(x, self.level_poolers)):
            index = nonzero_tuple(levels == level)[0]
            out.index_put_((index,), pooler(feature, rois[index]).to(out.dtype))
        return out
