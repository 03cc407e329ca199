"""Axis-aligned boxes in absolute XYXY pixels, and measures between sets of them.

Shapes: N, M boxes; P points.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum, unique

import numpy as np
import torch
from torch import Tensor


@unique
class BoxMode(IntEnum):
    """How the four (or five) numbers of a box are to be read."""

    XYXY_ABS = 0
    XYWH_ABS = 1
    XYXY_REL = 2
    XYWH_REL = 3
    XYWHA_ABS = 4

    @staticmethod
    def convert(box, from_mode: BoxMode, to_mode: BoxMode):
        """Convert boxes between XYXY_ABS and XYWH_ABS, keeping the container's type.

        ``box`` is a list or tuple of 4 numbers, or an array or tensor of shape (..., 4). Equal
        modes return the same object.

        Raises: AssertionError for relative modes; NotImplementedError for rotated boxes.
        """
        if from_mode == to_mode:
            return box
        relative = (BoxMode.XYXY_REL, BoxMode.XYWH_REL)
        assert from_mode not in relative and to_mode not in relative, (
            "boxes relative to the image size are not supported"
        )
        pair = (BoxMode(from_mode), BoxMode(to_mode))
        if pair == (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS):
            sign = 1
        elif pair == (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
            sign = -1
        else:
            raise NotImplementedError(f"conversion from {pair[0].name} to {pair[1].name}")
        if isinstance(box, list | tuple):
            assert len(box) == 4, f"a box has 4 numbers, got {len(box)}"
            x, y, a, b = box
            return type(box)((x, y, a + sign * x, b + sign * y))
        out = box.clone() if isinstance(box, Tensor) else np.array(box)
        out[..., 2:] += sign * out[..., :2]
        return out


class Boxes:
    """N boxes as a float32 tensor (N, 4) of x0, y0, x1, y1 in pixels."""

    def __init__(self, tensor) -> None:
        """Take a tensor, an array or nested lists; anything empty becomes (0, 4)."""
        if not isinstance(tensor, Tensor):
            tensor = torch.as_tensor(np.asarray(tensor, dtype=np.float32))
        tensor = tensor.to(torch.float32)
        if tensor.numel() == 0:
            tensor = tensor.reshape(-1, 4)
        assert tensor.dim() == 2 and tensor.shape[-1] == 4, (
            f"boxes have shape (N, 4), got {tuple(tensor.shape)}"
        )
        self.tensor = tensor

    def clone(self) -> Boxes:
        return Boxes(self.tensor.clone())

    def to(self, device: torch.device) -> Boxes:
        return Boxes(self.tensor.to(device=device))

    def area(self) -> Tensor:
        """Return the areas (N,) in square pixels."""
        x0, y0, x1, y1 = self.tensor.unbind(1)
        return (x1 - x0) * (y1 - y0)

    def clip(self, box_size: tuple[int, int]) -> None:
        """Limit x to [0, width] and y to [0, height]; ``box_size`` is (height, width)."""
        assert torch.isfinite(self.tensor).all(), "a box has a coordinate that is inf or nan"
        h, w = box_size
        x0, y0, x1, y1 = self.tensor.unbind(1)
        self.tensor = torch.stack(
            (x0.clamp(0, w), y0.clamp(0, h), x1.clamp(0, w), y1.clamp(0, h)), dim=-1
        )

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """Return a mask (N,) of boxes whose both sides are longer than ``threshold`` pixels."""
        sides = self.tensor[:, 2:] - self.tensor[:, :2]
        return (sides[:, 0] > threshold) & (sides[:, 1] > threshold)

    def __getitem__(self, item) -> Boxes:
        """Select boxes; an int keeps a set of one box."""
        if isinstance(item, int):
            return Boxes(self.tensor[item].view(1, -1))
        chosen = self.tensor[item]
        assert chosen.dim() == 2, f"indexing boxes with {item} does not give boxes"
        return Boxes(chosen)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> Tensor:
        """Return a mask (N,) of boxes inside (height, width), up to the threshold in pixels."""
        h, w = box_size
        x0, y0, x1, y1 = self.tensor.unbind(1)
        t = boundary_threshold
        return (x0 >= -t) & (y0 >= -t) & (x1 < w + t) & (y1 < h + t)

    def get_centers(self) -> Tensor:
        """Return the centres (N, 2) as x, y."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply the coordinates in place, in the tensor itself."""
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    @classmethod
    def cat(cls, boxes_list: list[Boxes]) -> Boxes:
        """Join sets of boxes into new memory; an empty list gives no boxes."""
        assert isinstance(boxes_list, list | tuple)
        if len(boxes_list) == 0:
            return cls(torch.empty(0))
        assert all(isinstance(boxes, Boxes) for boxes in boxes_list)
        return cls(torch.cat([boxes.tensor for boxes in boxes_list], dim=0))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.tensor


def pairwise_intersection(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Return the intersection areas (N, M)."""
    a, b = boxes1.tensor[:, None], boxes2.tensor[None]
    sides = torch.min(a[..., 2:], b[..., 2:]) - torch.max(a[..., :2], b[..., :2])
    return sides.clamp_(min=0).prod(dim=2)


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Return intersection over union (N, M), 0 wherever the intersection is 0."""
    inter = pairwise_intersection(boxes1, boxes2)
    union = boxes1.area()[:, None] + boxes2.area()[None] - inter
    return torch.where(inter > 0, inter / union, inter.new_zeros(1))


def pairwise_ioa(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Return intersection over the area of the second box (N, M)."""
    inter = pairwise_intersection(boxes1, boxes2)
    return torch.where(inter > 0, inter / boxes2.area()[None], inter.new_zeros(1))


def matched_pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Return the IoU (N,) of the i-th box of one set with the i-th of the other."""
    assert len(boxes1) == len(boxes2), f"{len(boxes1)} boxes cannot be paired with {len(boxes2)}"
    a, b = boxes1.tensor, boxes2.tensor
    sides = torch.min(a[:, 2:], b[:, 2:]) - torch.max(a[:, :2], b[:, :2])
    inter = sides.clamp_(min=0).prod(dim=1)
    union = boxes1.area() + boxes2.area() - inter
    return torch.where(inter > 0, inter / union, inter.new_zeros(1))


def pairwise_point_box_distance(points: Tensor, boxes: Boxes) -> Tensor:
    """Return (P, M, 4): a point's distances to the left, top, right and bottom sides of a box.

    ``points`` has shape (P, 2). All four are positive exactly when the point is inside.
    """
    x, y = points[:, None, None].unbind(-1)
    x0, y0, x1, y1 = boxes.tensor[None, :, None].unbind(-1)
    return torch.cat((x - x0, y - y0, x1 - x, y1 - y), dim=2)
