"""What a run leaves to look at: the scores as a table, and an overlay video of test videos."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from ..data import build_test_loader
from ..modeling import VideoModel
from .checkpointer import write_atomically
from .inference import score_table

logger = logging.getLogger(__name__)
_FPS = 8.0  # of overlays whose source does not know its own


def write_scores(cfg: CfgNode, results: Mapping[str, Any]) -> None:
    """Write the scores (x 100) to OUTPUT_DIR: ``scores.md``, a table, and ``scores.json``."""
    names = cfg.DATASETS.TEST
    by_set = {names[0]: results} if len(names) == 1 else results
    tables = [f"{name}\n\n{score_table(scores)}\n" for name, scores in by_set.items() if scores]
    if not tables:
        return
    text = json.dumps(_without_nan(by_set), indent=1)
    folder = Path(cfg.OUTPUT_DIR)
    write_atomically(folder / "scores.md", lambda file: file.write("\n".join(tables).encode()))
    write_atomically(folder / "scores.json", lambda file: file.write(text.encode()))


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_nan(v) for k, v in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def write_overlay(cfg: CfgNode, model: Any) -> Path | None:
    """Draw the first ``TEST.OVERLAY_VIDEOS`` test videos into ``OUTPUT_DIR/overlay.mp4``.

    Videos of another size than the first are left out. Returns the file, None if there is nothing
    to draw: no test set of videos, or a model of single images.
    """
    count = cfg.TEST.OVERLAY_VIDEOS
    if count <= 0 or not cfg.DATASETS.TEST or not isinstance(model, VideoModel):
        return None
    from ..video import VideoPredictor, VideoWriter, draw_frame  # they import this package

    videos = build_test_loader(cfg, cfg.DATASETS.TEST[0]).dataset
    items = [videos[i] for i in range(min(count, len(videos)))]
    items = [item for item in items if "frames" in item]
    if not items:
        return None
    training = model.training
    predictor = VideoPredictor(cfg, model=model)
    size = items[0]["frames"].size
    path = Path(cfg.OUTPUT_DIR) / "overlay.mp4"
    try:
        with VideoWriter(path, fps=items[0]["frames"].fps or _FPS) as writer:
            for item in items:
                source = item["frames"]
                if source.size != size:
                    continue
                masks = {"frames": item["new_masks"]} if model.takes_masks else None
                for frame, result in zip(source, predictor(source, masks=masks)):
                    image = draw_frame(
                        frame,
                        result,
                        image_format=cfg.INPUT.FORMAT,
                        class_names=predictor.class_names,
                    )
                    writer.add(image)
    finally:
        model.train(training)
    logger.info("Overlay video: %s", path)
    return path
