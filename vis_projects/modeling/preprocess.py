"""From original frames to what a network reads: size, colour order, mean and std, padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from detectron2.structures import ImageList
from PIL import Image
from torch import nn
from torch.nn import functional as F

from ..structures import Frame

SizeRule = Callable[[int, int], tuple[int, int]]  # (H, W) of the frame -> (h, w) of the network


def shortest_edge(short: int, longest: int) -> SizeRule:
    """Detectron2's test size: scale the short side to ``short`` unless the long one would exceed
    ``longest``; round half up. ``short`` 0 keeps the frame's size."""

    def rule(height: int, width: int) -> tuple[int, int]:
        if short == 0:
            return height, width
        scale = short / min(height, width)
        h, w = height * scale, width * scale
        if max(h, w) > longest:
            shrink = longest / max(h, w)
            h, w = h * shrink, w * shrink
        return int(h + 0.5), int(w + 0.5)

    return rule


class Preprocess(nn.Module):
    """Resize, reorder colours, normalise, pad to the right and below.

    By default the resize equals Detectron2's (Pillow, bilinear with antialias, uint8).

    Args:
        pixel_mean, pixel_std: three numbers in the network's colour order.
        size_rule: from (H, W) to the network's (h, w); None keeps the size.
        frame_format: channel order of the frames that come in (``INPUT.FORMAT``).
        network_format: channel order that the weights expect; ``frame_format`` by default.
        divisibility: h and w are padded with zeros (after normalisation) to a multiple of it.
        on_device: resize with ``F.interpolate`` on the device instead of with Pillow.
    """

    def __init__(
        self,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        *,
        size_rule: SizeRule | None = None,
        frame_format: str = "BGR",
        network_format: str | None = None,
        divisibility: int = 0,
        on_device: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).float().view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).float().view(-1, 1, 1), False)
        self.size_rule = size_rule
        self.flip_colours = network_format not in (None, frame_format)
        self.divisibility = divisibility
        self.on_device = on_device

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, frames: Sequence[Frame]) -> ImageList:
        """Return the normalised, padded batch of frames: tensor (N, 3, h, w), ``image_sizes``."""
        return self.normalise([self.resize(frame) for frame in frames])

    def resize(self, frame: Frame) -> torch.Tensor:
        """Return the image (3, h, w) at the network's size, uint8 or float; not normalised."""
        image = frame.image
        if self.size_rule is None or frame.resized:
            return image
        height, width = image.shape[-2:]
        size = self.size_rule(int(height), int(width))
        if size == (height, width):
            return image
        if self.on_device:
            moved = image.to(self.device, non_blocking=True).float()
            return F.interpolate(moved[None], size, mode="bilinear", antialias=True)[0].clamp_(
                0, 255
            )
        array = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        resized = Image.fromarray(array).resize((size[1], size[0]), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(resized)).permute(2, 0, 1)

    def normalise(self, images: Sequence[torch.Tensor]) -> ImageList:
        """Normalise and pad images (3, h, w) that have the network's size already (training)."""
        ready = []
        for image in images:
            x = image.to(self.device, non_blocking=True).float()
            if self.flip_colours:
                x = x.flip(0)
            ready.append((x - self.pixel_mean) / self.pixel_std)
        return self.pad(ready)

    def pad(self, images: Sequence[torch.Tensor]) -> ImageList:
        """Stack images (3, h, w) into one batch, zeros to the right and below.

        As ``ImageList.from_tensors``, of which the official one reads sizes back from tensors:
        a wait in every frame, and nothing that can be traced.
        """
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        step = max(self.divisibility, 1)
        height, width = (-(-max(sides) // step) * step for sides in zip(*sizes))
        padded = [F.pad(x, (0, width - w, 0, height - h)) for x, (h, w) in zip(images, sizes)]
        return ImageList(padded[0][None] if len(padded) == 1 else torch.stack(padded), sizes)
