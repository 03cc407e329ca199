"""CrossVIS' network of a frame: maps of the head on five levels, and the mask features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..modeling.exported_network import ExportedNetwork, Function


def exported_networks(model: Any, size: tuple[int, int]) -> Sequence[ExportedNetwork]:
    """Return the whole network of a ``CondInst`` or ``CrossVIS``; images (B, 3, H, W)."""

    def run(parts: Any, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = parts.backbone(image)
        out = parts.head(features)
        maps = (out.logits, out.distances, out.centerness, out.bbox_features, out.embeddings)
        return (parts.mask_branch(features), *(x for each in maps for x in each))

    levels = range(len(model.proposal_generator.in_features))
    kinds = ["logits", "distances", "centerness", "controller_features"]
    kinds += ["embeddings"] if model.proposal_generator.fcos_head.reid_tower is not None else []
    module = Function(
        run,
        backbone=model.backbone,
        head=model.proposal_generator,
        mask_branch=model.mask_branch,
    )
    return [
        ExportedNetwork(
            "",
            module,
            {"image": torch.randn(1, 3, *size)},
            ["mask_features", *(f"{kind}_{i}" for kind in kinds for i in levels)],
            {"image": "batch"},
        )
    ]
