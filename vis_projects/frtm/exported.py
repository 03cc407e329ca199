"""FRTM's networks of a frame: the features, and the segmentation of any number of objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..modeling.exported_network import ExportedNetwork, Function


def exported_networks(model: Any, size: tuple[int, int]) -> Sequence[ExportedNetwork]:
    """Return the trunk and, unless segmentation is left out, the segmentation network.

    Between them stands each object's target model: a 1x1 and a 3x3 convolution whose weights are
    learned on the video (``TargetModel``), or labels that are matched (``MatchingTracker``).
    """
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        features = model.backbone(image)
    names = list(features)

    def extract(parts: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(parts.backbone(x).values())

    def segment(parts: Any, scores: torch.Tensor, *maps: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (parts.refiner(scores, dict(zip(names, maps)), size),)

    networks = [
        ExportedNetwork(
            "features", Function(extract, backbone=model.backbone), {"image": image}, names,
            {"image": "batch"},
        )
    ]  # fmt: skip
    if model.refiner is not None:
        scores = torch.randn(2, 1, *model.tracker.cells(features))
        networks.append(
            ExportedNetwork(
                "segmentation",
                Function(segment, refiner=model.refiner),
                {"scores": scores, **features},
                ["logits"],
                {"scores": "objects"},
            )
        )
    return networks
