"""The old box convention of official checkpoints: x2 and y2 belong to the box.

Adding 1 to x2 and y2 turns every formula into Detectron2's, so only the anchors' rounding and the
limit of the size deltas remain.
"""

from __future__ import annotations

import torch
from detectron2.modeling.anchor_generator import (
    ANCHOR_GENERATOR_REGISTRY,
    DefaultAnchorGenerator,
)
from detectron2.modeling.box_regression import Box2BoxTransform


@ANCHOR_GENERATOR_REGISTRY.register()
class InclusiveAnchorGenerator(DefaultAnchorGenerator):
    """Anchors with rounded corners around (i + 0.5) * stride.

    ``MODEL.ANCHOR_GENERATOR.OFFSET`` must be 0.5: the centre of the first cell is then stride / 2,
    and the official corners are relative to the cell's corner.
    """

    def generate_cell_anchors(self, sizes=(32,), aspect_ratios=(0.5, 1, 2)) -> torch.Tensor:
        """Anchors (A, 4) relative to (i + 0.5) * stride, where stride is an eighth of a size."""
        anchors = []
        for size in sizes:
            centre = size / 16  # half a stride: the scale is 8
            exact = super().generate_cell_anchors((size,), aspect_ratios)
            # Inclusive corners are c -/+ (side - 1) / 2 with c = (stride - 1) / 2, rounded; the
            # last pixel is inside, hence + 1.
            first = torch.round(centre + exact[:, :2])
            last = torch.round(centre + exact[:, 2:] - 1) + 1
            anchors.append(torch.cat([first, last], dim=1) - centre)
        return torch.cat(anchors)


class SymmetricBox2BoxTransform(Box2BoxTransform):
    """Limits the size deltas on both sides."""

    def apply_deltas(self, deltas: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        limit = deltas.new_tensor(self.weights) * self.scale_clamp
        parts = deltas.unflatten(1, (-1, 4))
        sizes = torch.minimum(torch.maximum(parts[..., 2:], -limit[2:]), limit[2:])
        return super().apply_deltas(torch.cat([parts[..., :2], sizes], dim=-1).flatten(1), boxes)
