"""SRNet's network of a frame: the maps of the heads, from an image and the last frame's p5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..modeling.exported_network import ExportedNetwork, Function

HEADS = ("offset", "objectness", "category", "bandwidth", "tracking")


def exported_networks(model: Any, size: tuple[int, int]) -> Sequence[ExportedNetwork]:
    """Return the network; the first frame of a video gives its own p5 as the previous one.

    The heat map is that of the frame before, at stride 4, zeros for the first.
    """

    def run(
        parts: Any, image: torch.Tensor, previous: torch.Tensor, heat_map: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        features = parts.backbone(image)
        x = parts.decoder(features, previous)
        raw = parts.heads(x, heat_map)
        return (features["p5"], *(raw[name] for name in HEADS if name in raw))

    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        features = model.backbone(image)
    heat_map = torch.rand(1, 1, *features["p2"].shape[-2:])
    names = [n for n in HEADS if n != "category" or model.heads.category is not None]
    module = Function(run, backbone=model.backbone, decoder=model.decoder, heads=model.heads)
    inputs = {"image": image, "previous_p5": features["p5"], "heat_map": heat_map}
    dynamic = dict.fromkeys(inputs, "batch")
    return [ExportedNetwork("", module, inputs, ["p5", *names], dynamic)]
