"""A batch of images of different sizes, padded to one tensor.

Shapes: N images, C channels, H, W height and width in pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class ImageList:
    """Images padded at the right and the bottom, together with their own sizes."""

    def __init__(self, tensor: Tensor, image_sizes: list[tuple[int, int]]) -> None:
        """``tensor`` is (N, H, W) or (N, C, H, W); ``image_sizes`` holds (height, width)."""
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int) -> Tensor:
        """Return the idx-th image without its padding."""
        h, w = self.image_sizes[idx]
        return self.tensor[idx, ..., :h, :w]

    def to(self, *args, **kwargs) -> ImageList:
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    @staticmethod
    def from_tensors(
        tensors: list[Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: dict[str, int] | None = None,
    ) -> ImageList:
        """Pad images (C, H, W) or (H, W) to their largest height and width and stack them.

        Each side is rounded up to ``size_divisibility`` when that exceeds 1.
        ``padding_constraints`` may hold ``square_size`` (> 0: both sides have this length) and
        ``size_divisibility`` (takes precedence).
        """
        assert len(tensors) > 0, "no images"
        assert all(t.shape[:-2] == tensors[0].shape[:-2] for t in tensors), (
            "images of different numbers of channels"
        )
        sizes = [(t.shape[-2], t.shape[-1]) for t in tensors]
        height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
        if padding_constraints is not None:
            square = padding_constraints.get("square_size", 0)
            if square > 0:
                height = width = square
            size_divisibility = padding_constraints.get("size_divisibility", size_divisibility)
        if size_divisibility > 1:
            height, width = (
                -(-s // size_divisibility) * size_divisibility for s in (height, width)
            )
        if len(tensors) == 1:
            h, w = sizes[0]
            return ImageList(
                F.pad(tensors[0], (0, width - w, 0, height - h), value=pad_value)[None], sizes
            )
        batch = tensors[0].new_full(
            (len(tensors), *tensors[0].shape[:-2], height, width), pad_value
        )
        for slot, image in zip(batch, tensors):
            slot[..., : image.shape[-2], : image.shape[-1]].copy_(image)
        return ImageList(batch, sizes)
