"""Tracks of detections alone, without a propagator: what the pipeline is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..structures import Track
from .association import best_pairs, class_and_score, mask_iou
from .detections import Detections

LINK_IOU = 0.3


def link_detections(found: Sequence[Detections], *, threshold: float = LINK_IOU) -> list[Track]:
    """Link a video's detections by the IoU with each track's last mask, within a class.

    Args:
        found: of every frame.
        threshold: pairs need a larger IoU.
    """
    tracks: list[dict[str, Any]] = []
    for t, frame in enumerate(found):
        masks = frame.masks(torch.device("cpu"))
        taken = set()
        if tracks and len(frame):
            iou = mask_iou(masks, torch.stack([k["last"] for k in tracks]))
            same = torch.tensor(frame.classes)[:, None] == torch.tensor(
                [k["detections"][0][1] for k in tracks]
            )
            for i, j in best_pairs(iou * same, threshold):
                taken.add(i)
                tracks[j]["last"] = masks[i]
                tracks[j]["masks"][t] = frame.rles[i]
                tracks[j]["detections"].append((t, frame.classes[i], frame.scores[i]))
        for i in sorted(set(range(len(frame))) - taken):
            born = [(t, frame.classes[i], frame.scores[i])]
            tracks.append({"last": masks[i], "masks": {t: frame.rles[i]}, "detections": born})
    out = []
    for number, track in enumerate(tracks, 1):
        category, score = class_and_score(track["detections"])
        masks = [track["masks"].get(t) for t in range(len(found))]
        out.append(Track(number, {category: score}, masks))
    return sorted(out, key=lambda track: track.score)
