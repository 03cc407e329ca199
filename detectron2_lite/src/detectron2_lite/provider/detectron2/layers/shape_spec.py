"""The static description of a feature map."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ShapeSpec:
    """What is known of a tensor's shape before it exists; unknown parts are None."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None
