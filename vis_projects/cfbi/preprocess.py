"""CFBI's sizes and colours: a long-edge limit, scales, sides of 16k + 1, bicubic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import nn

from ..structures import Frame


def network_size(size: tuple[int, int], limit: int, scale: float = 1.0) -> tuple[int, int]:
    """Size of the network's input for frames of ``size`` (H, W).

    A long edge above ``limit`` is scaled to it, then both sides are scaled, cut to integers and
    brought to 16k + 1 (halves to even), at least 17.
    """
    h, w = size
    shrink = min(1.0, limit / max(h, w))
    sides = [int(n * shrink * scale) for n in (h, w)]
    h, w = (n if (n - 1) % 16 == 0 else int(round((n - 1) / 16) * 16 + 1) for n in sides)
    return max(h, 17), max(w, 17)


@dataclass(frozen=True)
class Run:
    """One pass of multi-scale and flip inference."""

    scale: float = 1.0
    flip: bool = False


def runs_of(scales: Sequence[float], flip: bool) -> list[Run]:
    """Every scale, plain and then flipped."""
    return [Run(s, f) for s in scales for f in ((False, True) if flip else (False,))]


class CFBIPreprocess(nn.Module):
    """From a frame to the network's input.

    Args:
        mean, std: of pixels in 0..1, applied in the order of ``network_format``. The released
            weights expect RGB statistics on BGR pixels.
        frame_format: channel order of the frames (``INPUT.FORMAT``).
        network_format: channel order that the weights expect.
        limit: of the long edge.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        frame_format: str = "BGR",
        network_format: str = "BGR",
        limit: int = 1040,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.flip_colours = frame_format != network_format
        self.limit = limit

    def normalise(self, image: torch.Tensor) -> torch.Tensor:
        """Scale to 0..1, subtract the mean, divide: (..., 3, H, W) of any number type."""
        x = image.to(self.mean.device, non_blocking=True).float()
        if self.flip_colours:
            x = x.flip(-3)
        return (x / 255 - self.mean) / self.std

    def forward(self, frame: Frame, run: Run) -> torch.Tensor:
        """Return the input (1, 3, h, w) of one run."""
        size = network_size(frame.image.shape[-2:], self.limit, run.scale)
        image = frame.image
        if size != tuple(image.shape[-2:]):
            array = np.ascontiguousarray(frame.array(), np.float32)
            resized = cv2.resize(array, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
            image = torch.from_numpy(resized).permute(2, 0, 1)
        x = self.normalise(image)[None]
        return x.flip(-1) if run.flip else x
