"""From stride-4 mask probabilities to binary masks of the output's size."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ..modeling.aligned_bilinear import aligned_bilinear

_CHUNK = 1 << 24  # output pixels that are held as floats at a time (64 MB)


def enlarge_masks(
    probabilities: torch.Tensor,
    stride: int,
    image_size: tuple[int, int],
    output_size: tuple[int, int],
    *,
    threshold: float = 0.5,
) -> torch.Tensor:
    """Enlarge probabilities (N, h, w) of the padded input to masks (N, H, W), bool.

    Probabilities, not logits, are enlarged by the stride, cut to the unpadded input and resized
    to the output. A few masks at a time, so that memory does not depend on N.
    """
    rows = max(1, _CHUNK // (output_size[0] * output_size[1]))
    device = probabilities.device
    out = torch.empty((len(probabilities), *output_size), dtype=torch.bool, device=device)
    for first in range(0, len(probabilities), rows):
        full = aligned_bilinear(probabilities[first : first + rows, None], stride)
        full = full[:, :, : image_size[0], : image_size[1]]
        if tuple(image_size) != tuple(output_size):
            full = F.interpolate(full, output_size, mode="bilinear", align_corners=False)
        out[first : first + rows] = full[:, 0] > threshold
    return out
