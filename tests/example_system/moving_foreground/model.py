"""The network, its loss, and how it segments a video frame by frame.

Shapes: B items, H x W a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from vis_projects.modeling import VideoModel
from vis_projects.structures import Frame, FrameResult, VideoInfo


@META_ARCH_REGISTRY.register()
class MovingForeground(VideoModel):
    """Unsupervised video object segmentation: one track, everything that differs."""

    task = "uvos"

    @configurable
    def __init__(self, *, width: int, threshold: float = 0.5, **base: Any) -> None:
        super().__init__(**base)
        self.threshold = threshold
        self.network = nn.Sequential(
            nn.Conv2d(6, width, 5, 2, 2),
            nn.ReLU(),
            nn.Conv2d(width, width, 5, 2, 2),
            nn.ReLU(),
            nn.Conv2d(width, 1, 3, 1, 1),
        )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        options = cfg.MODEL.MOVING_FOREGROUND
        return {**cls.base_config(cfg), "width": options.WIDTH, "threshold": options.THRESH}

    def logits(self, frames: Tensor, previous: Tensor) -> Tensor:
        """Two frames (B, 3, H, W), 0 to 255, to logits (B, H, W) of the foreground."""
        now, before = frames.float() / 128 - 1, previous.float() / 128 - 1
        logits = self.network(torch.cat([now, now - before], 1))
        return F.interpolate(logits, frames.shape[-2:], mode="bilinear", align_corners=False)[:, 0]

    def losses(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """The ``consecutive`` sampler gives the previous frame first, then the one to segment."""
        frames = torch.stack([item["image"][1] for item in items]).to(self.device)
        previous = torch.stack([item["image"][0] for item in items]).to(self.device)
        truth = torch.stack([item["instances"][1].gt_masks.tensor.any(0) for item in items])
        logits = self.logits(frames, previous)
        return {"loss_mask": F.binary_cross_entropy_with_logits(logits, truth.to(logits))}

    def begin(self, info: VideoInfo) -> None:
        self._previous: Tensor | None = None

    def segment(self, frame: Frame, new_masks: Any = None) -> FrameResult:
        image = frame.image[None].to(self.device)
        previous = image if self._previous is None else self._previous
        self._previous = image
        probabilities = self.logits(image, previous).sigmoid()
        masks = probabilities > self.threshold
        score = probabilities[masks].mean() if masks.any() else probabilities.new_zeros(())
        return FrameResult.build(
            masks, torch.tensor([1], device=self.device), scores=score[None], index=frame.index
        )
