"""CFBI's network of a frame: the embedding and the low-level features at stride 4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..modeling.exported_network import ExportedNetwork, Function


def exported_networks(model: Any, size: tuple[int, int]) -> Sequence[ExportedNetwork]:
    """Return the extractor; matching and the ensembler depend on what was seen before and stay."""

    def embed(parts: Any, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features, low = parts.extractor(image)
        return parts.embedding(features), low

    network = model.network
    module = Function(
        embed, extractor=network.feature_extracter, embedding=network.semantic_embedding
    )
    inputs = {"image": torch.randn(1, 3, *size)}
    return [ExportedNetwork("embedding", module, inputs, ["embedding", "low"], {"image": "batch"})]
