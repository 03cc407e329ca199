"""Masks of objects: bitmaps, polygons, and small masks relative to a box.

Shapes: N objects, H, W the image's height and width in pixels, S side of a cropped mask.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures.boxes import Boxes
from torch import Tensor

_Polygons = list[np.ndarray]


def polygons_to_bitmask(polygons: _Polygons, height: int, width: int) -> np.ndarray:
    """Rasterise the union of flat polygons x0, y0, x1, y1, ... to a bool array (height, width)."""
    if len(polygons) == 0:
        return np.zeros((height, width), dtype=bool)
    rles = mask_util.frPyObjects([np.asarray(p).tolist() for p in polygons], height, width)
    return mask_util.decode(mask_util.merge(rles)).astype(bool)


class BitMasks:
    """N masks as one bool tensor (N, H, W)."""

    def __init__(self, tensor: Tensor | np.ndarray) -> None:
        if not isinstance(tensor, Tensor):
            tensor = torch.as_tensor(np.asarray(tensor))
        tensor = tensor.to(torch.bool)
        assert tensor.dim() == 3, f"bit masks have shape (N, H, W), got {tuple(tensor.shape)}"
        self.image_size = (tensor.shape[1], tensor.shape[2])
        self.tensor = tensor

    def to(self, *args, **kwargs) -> BitMasks:
        return BitMasks(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def __getitem__(self, item) -> BitMasks:
        """Select masks; an int keeps a set of one mask."""
        if isinstance(item, int):
            return BitMasks(self.tensor[item].unsqueeze(0))
        chosen = self.tensor[item]
        assert chosen.dim() == 3, f"indexing bit masks with {item} does not give bit masks"
        return BitMasks(chosen)

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.tensor

    def __repr__(self) -> str:
        return f"BitMasks(num_instances={len(self)}, image_size={self.image_size})"

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def nonempty(self) -> Tensor:
        """Return a mask (N,) of those with at least one pixel."""
        return self.tensor.flatten(1).any(dim=1)

    @staticmethod
    def from_polygon_masks(
        polygon_masks: PolygonMasks | list[_Polygons], height: int, width: int
    ) -> BitMasks:
        """Rasterise the polygons of each object."""
        if isinstance(polygon_masks, PolygonMasks):
            polygon_masks = polygon_masks.polygons
        masks = [polygons_to_bitmask(p, height, width) for p in polygon_masks]
        if len(masks) == 0:
            return BitMasks(torch.empty(0, height, width, dtype=torch.bool))
        return BitMasks(torch.from_numpy(np.stack(masks)))

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """Crop mask i to box i (N, 4) and resize it by RoIAlign; bool (N, S, S) at 0.5."""
        from torchvision.ops import roi_align

        assert len(boxes) == len(self), f"{len(boxes)} boxes for {len(self)} masks"
        device = self.tensor.device
        index = torch.arange(len(boxes), device=device, dtype=boxes.dtype)[:, None]
        rois = torch.cat([index, boxes.to(device)], dim=1).to(torch.float32)
        out = roi_align(
            self.tensor.to(torch.float32)[:, None],
            rois,
            (mask_size, mask_size),
            spatial_scale=1.0,
            sampling_ratio=0,
            aligned=True,
        )
        return out[:, 0] >= 0.5

    def get_bounding_boxes(self) -> Boxes:
        """Return the tight boxes x0, y0, x1 + 1, y1 + 1; zeros for an empty mask."""
        return Boxes(_tight_boxes(self.tensor))

    @staticmethod
    def cat(bitmasks_list: list[BitMasks]) -> BitMasks:
        assert len(bitmasks_list) > 0 and all(isinstance(m, BitMasks) for m in bitmasks_list)
        return BitMasks(torch.cat([m.tensor for m in bitmasks_list], dim=0))


def _tight_boxes(masks: Tensor) -> Tensor:
    """Return the float boxes (N, 4) around masks (N, H, W) without a loop or synchronisation."""
    n, h, w = masks.shape
    if h == 0 or w == 0:
        return masks.new_zeros((n, 4), dtype=torch.float32)
    sides = []
    for occupied in (masks.any(dim=1), masks.any(dim=2)):  # columns, rows
        position = torch.arange(occupied.shape[1], device=masks.device)
        low = torch.where(occupied, position, occupied.shape[1]).amin(dim=1)
        high = torch.where(occupied, position + 1, 0).amax(dim=1)
        sides.append((torch.minimum(low, high), high))
    (x0, x1), (y0, y1) = sides
    return torch.stack((x0, y0, x1, y1), dim=1).to(torch.float32)


class PolygonMasks:
    """N masks, each a list of flat polygons x0, y0, x1, y1, ...; they stay on the CPU."""

    def __init__(self, polygons: list[list]) -> None:
        """Raises ValueError for anything but lists of polygons of even length of at least 6."""
        if not isinstance(polygons, list):
            raise ValueError(f"expected a list of lists of polygons, got {type(polygons)}")
        self.polygons: list[_Polygons] = [_checked(p) for p in polygons]

    def to(self, *args, **kwargs) -> PolygonMasks:
        return self

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def get_bounding_boxes(self) -> Boxes:
        """Return the boxes around all points of each mask; zeros for a mask without polygons."""
        boxes = np.zeros((len(self), 4), dtype=np.float32)
        for box, polygons in zip(boxes, self.polygons):
            if len(polygons) > 0:
                points = np.concatenate(polygons).reshape(-1, 2).astype(np.float32)
                box[:2], box[2:] = points.min(axis=0), points.max(axis=0)
        return Boxes(torch.from_numpy(boxes))

    def nonempty(self) -> Tensor:
        """Return a mask (N,) of those with at least one polygon."""
        return torch.tensor([len(p) > 0 for p in self.polygons], dtype=torch.bool)

    def __getitem__(self, item) -> PolygonMasks:
        """Select by int, slice, list, or a bool or int tensor or array."""
        if isinstance(item, int):
            chosen = [self.polygons[item]]
        elif isinstance(item, slice):
            chosen = self.polygons[item]
        else:
            if isinstance(item, Tensor):
                item = item.cpu().numpy()
            index = np.asarray(item)
            if index.dtype == bool:
                assert index.shape == (len(self),), f"a mask of {index.shape} for {len(self)}"
                index = np.flatnonzero(index)
            if index.size > 0 and (index.ndim != 1 or not np.issubdtype(index.dtype, np.integer)):
                raise ValueError(f"polygon masks cannot be indexed with {item!r}")
            chosen = [self.polygons[int(i)] for i in index]
        return PolygonMasks(chosen)

    def __iter__(self) -> Iterator[_Polygons]:
        return iter(self.polygons)

    def __repr__(self) -> str:
        return f"PolygonMasks(num_instances={len(self)})"

    def __len__(self) -> int:
        return len(self.polygons)

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """Crop mask i to box i (N, 4), scale it to S x S, rasterise; bool on the boxes' device."""
        assert len(boxes) == len(self), f"{len(boxes)} boxes for {len(self)} masks"
        crops = [
            _rasterise_in_box(polygons, box, mask_size)
            for polygons, box in zip(self.polygons, boxes.detach().cpu().numpy())
        ]
        if len(crops) == 0:
            return torch.empty(0, mask_size, mask_size, dtype=torch.bool, device=boxes.device)
        return torch.from_numpy(np.stack(crops)).to(boxes.device)

    def area(self) -> Tensor:
        """Return the sum (N,) of the areas of each mask's polygons."""
        return torch.tensor([sum(map(_polygon_area, polygons)) for polygons in self.polygons])

    @staticmethod
    def cat(polymasks_list: list[PolygonMasks]) -> PolygonMasks:
        assert len(polymasks_list) > 0 and all(isinstance(m, PolygonMasks) for m in polymasks_list)
        return PolygonMasks([p for masks in polymasks_list for p in masks.polygons])


def _checked(polygons: list) -> _Polygons:
    if not isinstance(polygons, list):
        raise ValueError(f"the polygons of one object are a list, got {type(polygons)}")
    arrays = []
    for polygon in polygons:
        array = polygon.cpu().numpy() if isinstance(polygon, Tensor) else polygon
        array = np.asarray(array, dtype=np.float64)
        if array.ndim != 1 or len(array) < 6 or len(array) % 2 != 0:
            raise ValueError(
                f"a polygon has an even number of at least 6 coordinates, got shape {array.shape}"
            )
        arrays.append(array)
    return arrays


def _rasterise_in_box(polygons: _Polygons, box: np.ndarray, mask_size: int) -> np.ndarray:
    sides = np.maximum(box[2:] - box[:2], 0.1)
    scale = mask_size / sides
    moved = [((p.reshape(-1, 2) - box[:2]) * scale).reshape(-1) for p in polygons]
    return polygons_to_bitmask(moved, mask_size, mask_size)


def _polygon_area(polygon: np.ndarray) -> float:
    x, y = polygon[0::2], polygon[1::2]
    return 0.5 * float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))


class ROIMasks:
    """N soft masks (N, S, S), each relative to a box."""

    def __init__(self, tensor: Tensor) -> None:
        if tensor.dim() != 3:
            raise ValueError(f"ROI masks have shape (N, S, S), got {tuple(tensor.shape)}")
        self.tensor = tensor

    def to(self, device: torch.device) -> ROIMasks:
        return ROIMasks(self.tensor.to(device))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __getitem__(self, item) -> ROIMasks:
        chosen = self.tensor[item]
        if chosen.dim() != 3:
            raise ValueError(f"indexing ROI masks with {item} does not give ROI masks")
        return ROIMasks(chosen)

    def __repr__(self) -> str:
        return f"ROIMasks(num_instances={len(self)})"

    def to_bitmasks(
        self, boxes: Tensor, height: int, width: int, threshold: float = 0.5
    ) -> BitMasks:
        """Paste the masks into their boxes (N, 4) in an image of the given size."""
        from detectron2.layers.mask_ops import paste_masks_in_image

        return BitMasks(paste_masks_in_image(self.tensor, boxes, (height, width), threshold))
