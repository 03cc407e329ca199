"""From kept sequences to the tracks of a video, at its own size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from ..structures import FrameResult, TrackRecorder, VideoInfo, VideoResult
from .packed_tubes import PackedTubes


def assemble_tracks(
    tubes: PackedTubes,
    kept: Sequence[int],
    scores: np.ndarray,
    *,
    image_size: tuple[int, int],
    info: VideoInfo,
    score_thresh: float = 0.0,
) -> VideoResult:
    """Bring the kept sequences to the video's size and make tracks of them.

    Args:
        tubes: all sequences, at the network's padded size.
        kept: sequences in order of selection. A track's id is its rank, from 1; the first one is
            painted last and so wins overlaps.
        scores: class scores (n, C) of the kept sequences; -1 for classes that reduction dropped.
        image_size: (h, w), the un-padded part of the tubes.
        score_thresh: a track gets every class that scores at least this; without any it is left
            out.
    """
    # Dropped classes carry -1: they stay out whatever the threshold.
    reported = [
        {int(c): float(row[c]) for c in np.flatnonzero(row >= max(score_thresh, 0.0))}
        for row in scores
    ]
    classes = {rank: found for rank, found in enumerate(reported, 1) if found}
    recorder = TrackRecorder(info, summarise=lambda record: classes[record.id])
    device = tubes.bits.device
    rows = torch.tensor([kept[rank - 1] for rank in classes], dtype=torch.int64).to(device)
    ids = torch.tensor(list(classes), dtype=torch.int64).to(device)
    height, width = image_size
    for t in range(tubes.length):
        masks = tubes.frame(t, rows)[:, :height, :width]
        if tuple(info.size) != (height, width):
            masks = _resize(masks, tuple(info.size))
        recorder.add(FrameResult.build(masks, ids, index=t))
    tracks = recorder.finish().tracks
    return VideoResult(tracks[::-1], tuple(info.size), tubes.length)


def _resize(masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize masks (n, h, w) bilinearly and threshold them at more than one half."""
    if len(masks) == 0:
        return masks.new_zeros((0, *size))
    resized = F.interpolate(masks[None].float(), size, mode="bilinear", align_corners=False)
    return resized[0] > 0.5
