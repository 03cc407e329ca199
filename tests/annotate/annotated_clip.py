"""A clip to annotate, and what is true in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vis_projects.engine.benchmark import moving_boxes
from vis_projects.video import VideoPredictor, VideoWriter

SIZE, FRAMES = (96, 160), 40
CONFIG = "configs/copy_first/davis2017.yaml"


def predictor() -> VideoPredictor:
    return VideoPredictor(CONFIG, device="cpu")


def write_clip(folder: Path) -> Path:
    """Two moving boxes as an mp4."""
    images, _ = moving_boxes(SIZE, 2, frames=FRAMES)
    file = folder / "clip.mp4"
    with VideoWriter(file, fps=10) as writer:
        for image in images:
            writer.add(np.ascontiguousarray(image[..., ::-1]))
    return file


def true_labels() -> np.ndarray:
    """The boxes' label maps."""
    return moving_boxes(SIZE, 2, frames=FRAMES)[1]
