"""Base net: an offline-trained encoder in place of the target model (FRTM, section 4.1).

The paper fixes two convolutions for the encoder (reference features and mask), two for its join
with the test frame's features, and leaves sizes open: 3x3 kernels, one hidden width (chosen).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .score_stencil import ScoreStencil
from .tracker import ObjectTracker, Segmented


class ReferenceEncoder(nn.Module):
    """Coarse scores from a reference frame and its mask, without any learning at test time.

    Args:
        channels: of the backbone features.
        width: hidden channels.
    """

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv2d(channels + 1, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
        )
        self.join = nn.Sequential(
            nn.Conv2d(channels + width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 1, 3, padding=1),
        )

    def reference(self, features: Tensor, masks: Tensor) -> Tensor:
        """Encode reference features (N or 1, C, h, w) with masks (N, 1, H, W): (N, E, h, w)."""
        masks = F.adaptive_avg_pool2d(masks.to(features.dtype), features.shape[-2:])
        features = features.expand(len(masks), -1, -1, -1)
        return self.encode(torch.cat([features, masks], 1))

    def forward(self, features: Tensor, encoded: Tensor) -> Tensor:
        """Return scores (N, 1, h, w) of features (N or 1, C, h, w)."""
        features = features.expand(len(encoded), -1, -1, -1)
        return self.join(torch.cat([features, encoded], 1))


@dataclass
class EncodedTargets:
    """References of objects that entered together: Base net's appearance models."""

    ids: list[int]
    encoder: ReferenceEncoder
    encoded: Tensor

    def scores(self, features: Tensor) -> Tensor:
        return self.encoder(features.float(), self.encoded)

    def observe(self, features: Tensor, planes: Tensor, stencil: ScoreStencil) -> None:
        """Nothing is learned after the first frame."""

    def keep(self, rows: Sequence[int]) -> None:
        self.ids = [self.ids[r] for r in rows]
        self.encoded = self.encoded[list(rows)]


class BaseNetTracker(ObjectTracker):
    """Tracks with ``ReferenceEncoder`` in the place of target models."""

    encoder: ReferenceEncoder

    def start_targets(self, seen: Segmented, ids: Sequence[int], masks: Tensor) -> EncodedTargets:
        x = self.target_map(seen.features).float()
        return EncodedTargets(list(ids), self.encoder, self.encoder.reference(x, masks[:, None]))

    def correct_targets(
        self, targets: EncodedTargets, seen: Segmented, rows: Sequence[int], masks: Tensor
    ) -> None:
        """The corrected frame takes the reference frame's place."""
        x = self.target_map(seen.features).float()
        encoded = targets.encoded.clone()
        encoded[list(rows)] = self.encoder.reference(x, masks[:, None])
        targets.encoded = encoded
