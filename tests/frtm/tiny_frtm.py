"""A small FRTM and a small video, for tests of the whole system."""

from __future__ import annotations

import fill
import numpy as np
import torch
from detectron2.modeling import build_model

from vis_projects.config import load_config
from vis_projects.frtm.model import FRTM

SIZE = (64, 80)
TINY = (
    "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", 0,
    "MODEL.ALLOW_MISSING_WEIGHTS", True,
    "MODEL.FRTM.TARGET.WIDTH", 8, "MODEL.FRTM.TARGET.SAMPLES", 2, "MODEL.FRTM.TARGET.CAPACITY", 6,
    "MODEL.FRTM.TARGET.INIT_STEPS", "(3, 3)", "MODEL.FRTM.TARGET.UPDATE_STEPS", "(2,)",
    "MODEL.FRTM.UPDATE_INTERVAL", 2,
)  # fmt: skip


def tiny(*opts, config: str = "configs/frtm/quickstart_synthetic.yaml") -> FRTM:
    torch.manual_seed(0)
    return build_model(load_config(config, [*TINY, *opts])).eval()


def clip(objects: int = 1, frames: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T, H, W, 3) and label maps (T, H, W) of moving blocks."""
    images = fill.frames(1, frames, *SIZE).copy()
    labels = np.zeros((frames, *SIZE), np.uint8)
    for t in range(frames):
        for i in range(objects):
            y, x = 4 + 12 * (i // 4), 3 + 18 * (i % 4) + t
            labels[t, y : y + 10, x : x + 12] = i + 1
            images[t, y : y + 10, x : x + 12] = [40 * (i % 6), 255 - 30 * (i % 8), 128]
    return images, labels
