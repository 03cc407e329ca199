"""What a run leaves to look at: the scores as a table, and an overlay video of test videos."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode

from ..data import build_test_loader
from ..data.clips.clip_mapper import read_objects
from ..modeling import VideoModel
from ..structures import FrameResult
from .checkpointer import write_atomically
from .inference import score_table

logger = logging.getLogger(__name__)
_FPS = 8.0  # of overlays whose source does not know its own


def write_scores(cfg: CfgNode, results: Mapping[str, Any]) -> None:
    """Write the scores (x 100) to OUTPUT_DIR: ``scores.md``, a table, and ``scores.json``."""
    names = cfg.DATASETS.TEST
    by_set = {names[0]: results} if len(names) == 1 else results
    tables = [f"{name}\n\n{score_table(scores)}\n" for name, scores in by_set.items() if scores]
    if not tables:  # nor may those of an earlier evaluation stand for this one
        for name in ("scores.md", "scores.json"):
            (Path(cfg.OUTPUT_DIR) / name).unlink(missing_ok=True)
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
    """Draw the first ``TEST.OVERLAY_VIDEOS`` test videos into ``OUTPUT_DIR/overlay.mp4``, beside
    their ground truth where there is one.

    Videos of another size than the first are left out. Returns the file, None if there is nothing
    to draw: no test set of videos, or a model of single images.
    """
    count = cfg.TEST.OVERLAY_VIDEOS
    if count <= 0 or not cfg.DATASETS.TEST or not isinstance(model, VideoModel):
        return None
    from ..video import VideoWriter, side_by_side

    dataset = build_test_loader(cfg, cfg.DATASETS.TEST[0]).dataset
    chosen = [(dataset[i], dataset.videos[i]) for i in range(min(count, len(dataset)))]
    chosen = [(item, video) for item, video in chosen if "frames" in item]
    if not chosen:
        return None
    size = chosen[0][0]["frames"].size
    path = Path(cfg.OUTPUT_DIR) / "overlay.mp4"
    truth = any(video.get("annotations") is not None for _, video in chosen)
    with VideoWriter(path, fps=chosen[0][0]["frames"].fps or _FPS) as writer:
        for item, video in chosen:
            if item["frames"].size != size:
                continue
            for predicted, true in drawn_pairs(cfg, model, item, video):
                titles = ("prediction", "ground truth")
                writer.add(side_by_side(predicted, true, titles) if truth else predicted)
    logger.info("Overlay video: %s", path)
    return path


def drawn_pairs(
    cfg: CfgNode, model: VideoModel, item: dict[str, Any], video: dict[str, Any]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield every frame of a test video twice, RGB: the prediction, and the ground truth.

    Tracks that score less than the system's ``drawn_above`` are not drawn.
    """
    from ..video import OverlayPainter, VideoPredictor

    training = model.training
    predictor = VideoPredictor(cfg, model=model)
    names = None if model.takes_masks else predictor.class_names
    painters = [OverlayPainter(cfg.INPUT.FORMAT, names, show_scores=s) for s in (True, False)]
    threshold = 0.0 if model.takes_masks else model.drawn_above
    source = item["frames"]
    masks = {"frames": dict(item["new_masks"].items())} if model.takes_masks else None
    try:
        for frame, result in zip(source, predictor(source, masks=masks)):
            shown = result.instances[result.instances.scores >= threshold]
            predicted = painters[0].draw(frame, FrameResult(shown, frame.index))
            yield predicted, painters[1].draw(frame, true_objects(video, frame.index))
    finally:
        model.train(training)


def true_objects(video: dict[str, Any], t: int) -> FrameResult:
    """Return the annotated objects of a frame."""
    objects = read_objects(video, t)
    return FrameResult.build(
        torch.from_numpy(objects.masks.astype(bool)),
        torch.from_numpy(objects.ids),
        classes=torch.from_numpy(objects.classes),
        index=t,
    )
