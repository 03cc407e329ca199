"""Anchors on a regular grid over every feature map."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes
from fvcore.common.registry import Registry
from torch import Tensor, nn

__all__ = ["ANCHOR_GENERATOR_REGISTRY", "DefaultAnchorGenerator", "build_anchor_generator"]

ANCHOR_GENERATOR_REGISTRY = Registry("ANCHOR_GENERATOR")
ANCHOR_GENERATOR_REGISTRY.__doc__ = "Callables ``(cfg, list[ShapeSpec])`` by name."


class _BufferList(nn.Module):
    """Tensors that move with the module and stay out of its state dict."""

    def __init__(self, tensors: Sequence[Tensor]):
        super().__init__()
        for i, tensor in enumerate(tensors):
            self.register_buffer(str(i), tensor, persistent=False)

    def __len__(self) -> int:
        return len(self._buffers)

    def __iter__(self):
        return iter(self._buffers.values())

    def __getitem__(self, index: int) -> Tensor:
        return self._buffers[str(index)]


def _per_level(values: Sequence, num_levels: int, name: str) -> list[Sequence[float]]:
    """Check sizes or ratios of the levels; one list serves all levels."""
    assert values, f"anchor {name} are empty"
    if not isinstance(values[0], Sequence):
        return [values] * num_levels
    if len(values) == 1:
        return list(values) * num_levels
    assert len(values) == num_levels, f"{len(values)} lists of {name} for {num_levels} levels"
    return list(values)


@ANCHOR_GENERATOR_REGISTRY.register()
class DefaultAnchorGenerator(nn.Module):
    """Boxes of every size x aspect ratio at each grid point (Faster R-CNN, Section 3.1.1)."""

    box_dim = 4

    @configurable
    def __init__(
        self,
        *,
        sizes: Sequence,
        aspect_ratios: Sequence,
        strides: Sequence[int],
        offset: float = 0.5,
    ):
        """``sizes``: square roots of areas, a list or one list per level; ``aspect_ratios``: h / w.

        ``offset``: place of the first centre in units of the stride, in [0, 1).
        """
        super().__init__()
        assert 0.0 <= offset < 1.0, f"anchor offset must lie in [0, 1), not {offset}"
        self.strides = list(strides)
        self.offset = offset
        sizes = _per_level(sizes, len(self.strides), "sizes")
        ratios = _per_level(aspect_ratios, len(self.strides), "aspect ratios")
        self.cell_anchors = _BufferList(
            [self.generate_cell_anchors(s, r).float() for s, r in zip(sizes, ratios)]
        )

    @classmethod
    def from_config(cls, cfg, input_shape: Sequence[ShapeSpec]) -> dict:
        return {
            "sizes": cfg.MODEL.ANCHOR_GENERATOR.SIZES,
            "aspect_ratios": cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS,
            "strides": [shape.stride for shape in input_shape],
            "offset": cfg.MODEL.ANCHOR_GENERATOR.OFFSET,
        }

    @property
    def num_anchors(self) -> list[int]:
        """Anchors per grid point of each level."""
        return [len(anchors) for anchors in self.cell_anchors]

    @property
    def num_cell_anchors(self) -> list[int]:
        return self.num_anchors

    def generate_cell_anchors(
        self, sizes: Sequence[float] = (32, 64, 128, 256, 512), aspect_ratios=(0.5, 1, 2)
    ) -> Tensor:
        """Anchors (A, 4) around the origin, ratios running fastest."""
        anchors = []
        for size in sizes:
            for ratio in aspect_ratios:
                width = math.sqrt(size**2.0 / ratio)
                height = ratio * width
                anchors.append([-width / 2, -height / 2, width / 2, height / 2])
        return torch.tensor(anchors)

    def forward(self, features: Sequence[Tensor]) -> list[Boxes]:
        """Anchors (H W A, 4) of each feature map (N, C, H, W): row, column, then anchor."""
        out = []
        for feature, stride, cell in zip(features, self.strides, self.cell_anchors):
            height, width = feature.shape[-2:]
            xs = torch.arange(width, dtype=torch.float32, device=cell.device)
            ys = torch.arange(height, dtype=torch.float32, device=cell.device)
            ys, xs = torch.meshgrid(
                (ys + self.offset) * stride, (xs + self.offset) * stride, indexing="ij"
            )
            centres = torch.stack([xs, ys, xs, ys], dim=-1).reshape(-1, 1, 4)
            out.append(Boxes((centres + cell).reshape(-1, 4)))
        return out


def build_anchor_generator(cfg, input_shape: Sequence[ShapeSpec]) -> nn.Module:
    """Build ``cfg.MODEL.ANCHOR_GENERATOR.NAME`` for feature maps of these shapes."""
    return ANCHOR_GENERATOR_REGISTRY.get(cfg.MODEL.ANCHOR_GENERATOR.NAME)(cfg, input_shape)
