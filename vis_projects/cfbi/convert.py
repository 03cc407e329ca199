"""Official CFBI checkpoints: the same names; four modules are stored there twice."""

from __future__ import annotations

import torch

# Other names of parts of `semantic_embedding`, holding the same tensors.
ALIASES = ("seperate_conv.", "bn1.", "embedding_conv.", "bn2.")


def convert(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Map an official state dict to ``CFBINetwork``'s; raises KeyError if it is of another kind."""
    for key in ("semantic_embedding.0.weight", "dynamic_seghead.IA_final_fg.weight"):
        state[key]
    return {k: v for k, v in state.items() if not k.startswith(ALIASES)}
