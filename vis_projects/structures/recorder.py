"""Collects frame results into tracks while the network goes on.

Masks leave the device once per frame, packed to bits; a worker thread waits for the copy and
encodes them, so that neither the copy nor the encoding holds back the network.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from .masks import RLE, PackedMasks, encode_packed, pack_masks
from .video_result import FrameResult, Track, VideoInfo, VideoResult

_PENDING_FRAMES = 8  # frames whose bits may wait for the encoder


@dataclass
class TrackRecord:
    """All that was recorded of one id: frames, masks, scores and classes in order of time."""

    id: int
    frames: list[int] = field(default_factory=list)
    masks: list[RLE] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)


def mean_score(record: TrackRecord) -> dict[int, float]:
    """Mean of the scores over the frames where the track was seen; its most frequent class."""
    values, counts = np.unique(record.classes, return_counts=True)
    return {int(values[counts.argmax()]): float(np.mean(record.scores))}


class TrackRecorder:
    """Turns a stream of FrameResults into a VideoResult.

    Empty masks count as "absent" unless they are kept. The dense tensors of at most eight frames
    are alive at a time.

    Args:
        info: the video; with ``keep_results`` False nothing is recorded.
        summarise: gives a track's ``{category: score}``; the mean of its scores by default.
        keep_empty: a detection with an empty mask counts: its score enters and its RLE is empty.
    """

    def __init__(
        self,
        info: VideoInfo,
        *,
        summarise: Callable[[TrackRecord], dict[int, float]] = mean_score,
        keep_empty: bool = False,
    ) -> None:
        self.info = info
        self.keep_empty = keep_empty
        self.summarise = summarise
        self.records: dict[int, TrackRecord] = {}
        self.length = 0
        self._pool: ThreadPoolExecutor | None = None
        self._pending: list[Future] = []

    def add(self, result: FrameResult) -> None:
        """Record a frame; returns at once unless the encoder is eight frames behind."""
        self.length = max(self.length, result.index + 1)
        if not self.info.keep_results or len(result) == 0:
            return
        instances = result.instances
        packed = pack_masks(instances.pred_masks)
        columns = (packed.bits, instances.pred_ids, instances.scores, instances.pred_classes)
        host = [c.detach().to("cpu", non_blocking=True) for c in columns]
        event = None
        if packed.bits.is_cuda:
            event = torch.cuda.Event()
            event.record()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="rle")
        while len(self._pending) >= _PENDING_FRAMES:
            self._pending.pop(0).result()
        self._pending.append(
            self._pool.submit(self._encode, result.index, host, packed.size, event)
        )

    def _encode(
        self,
        index: int,
        host: list[torch.Tensor],
        size: tuple[int, int],
        event: torch.cuda.Event | None,
    ) -> None:
        if event is not None:
            event.synchronize()
        bits, ids, scores, classes = host
        seen = bits.any(1).tolist()
        rles = encode_packed(PackedMasks(bits, size))
        rows = zip(rles, ids.tolist(), scores.tolist(), classes.tolist(), seen)
        for rle, track_id, score, category, visible in rows:
            if not (visible or self.keep_empty):
                continue
            record = self.records.setdefault(track_id, TrackRecord(track_id))
            record.frames.append(index)
            record.masks.append(rle)
            record.scores.append(score)
            record.classes.append(category)

    def wait(self) -> None:
        """Return when everything that was added is encoded; errors of the encoder are raised."""
        while self._pending:
            self._pending.pop(0).result()

    def finish(self) -> VideoResult:
        """Return the tracks in order of their first id and end the worker."""
        self.wait()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        length = self.info.length if self.info.length is not None else self.length
        tracks = []
        for record in sorted(self.records.values(), key=lambda r: r.id):
            masks: list[RLE | None] = [None] * length
            for t, rle in zip(record.frames, record.masks):
                masks[t] = rle
            tracks.append(Track(record.id, self.summarise(record), masks))
        return VideoResult(tracks, self.info.size, length)
