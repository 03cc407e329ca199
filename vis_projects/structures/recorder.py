"""Collects frame results into tracks while the network goes on.

Masks leave the device once per frame, packed to bits; a worker thread waits for the copy and
encodes them, so that neither the copy nor the encoding holds back the network.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from .masks import RLE, PackedMasks, decode_mask, encode_masks, encode_packed, pack_masks
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

    def mask(self, t: int) -> RLE | None:
        """Return the mask of frame t, None where the object was not seen."""
        place = bisect_left(self.frames, t)
        return self.masks[place] if self.frames[place : place + 1] == [t] else None

    def drop(self, t: int) -> None:
        """Forget frame t."""
        place = bisect_left(self.frames, t)
        if self.frames[place : place + 1] == [t]:
            for column in (self.frames, self.masks, self.scores, self.classes):
                del column[place]

    def put(self, t: int, mask: RLE, score: float, category: int) -> None:
        """Set what is known of frame t."""
        self.drop(t)
        place = bisect_left(self.frames, t)
        columns = (self.frames, self.masks, self.scores, self.classes)
        for column, value in zip(columns, (t, mask, score, category)):
            column.insert(place, value)


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

    def masks_at(self, t: int) -> dict[int, np.ndarray]:
        """Return the masks of frame t that have pixels, bool (H, W) by id."""
        self.wait()
        rles = {i: record.mask(t) for i, record in self.records.items()}
        masks = {i: decode_mask(rle) for i, rle in rles.items() if rle is not None}
        return {i: mask for i, mask in masks.items() if mask.any()}

    def replace(self, result: FrameResult, ids: Collection[int]) -> None:
        """Let ``ids`` have the masks of another result of a frame that was recorded.

        Their pixels are theirs alone: other objects lose them, and keep all else.
        """
        self.wait()
        t, arrays = result.index, result.numpy()
        names = ("masks", "ids", "scores", "classes")
        rows = {int(row[1]): row for row in zip(*(arrays[n] for n in names)) if row[1] in ids}
        taken = np.zeros(self.info.size, bool)
        for mask, *_ in rows.values():
            taken |= mask
        for record in self.records.values():
            rle = record.mask(t)
            if record.id in ids or rle is None:
                continue
            rest = decode_mask(rle)
            if (rest & taken).any():
                rest &= ~taken
                place = record.frames.index(t)
                score, category = record.scores[place], record.classes[place]
                record.drop(t)
                if rest.any() or self.keep_empty:
                    record.put(t, encode_masks(rest[None])[0], score, category)
        for i in ids:
            self.records.setdefault(i, TrackRecord(i)).drop(t)
            if i in rows and (rows[i][0].any() or self.keep_empty):
                mask, _, score, category = rows[i]
                rle = encode_masks(mask[None])[0]
                self.records[i].put(t, rle, float(score), int(category))

    def finish(self) -> VideoResult:
        """Return the tracks in order of their first id and end the worker."""
        self.wait()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        length = self.info.length if self.info.length is not None else self.length
        tracks = []
        seen = [record for record in self.records.values() if record.frames]
        for record in sorted(seen, key=lambda r: r.id):
            masks: list[RLE | None] = [None] * length
            for t, rle in zip(record.frames, record.masks):
                masks[t] = rle
            tracks.append(Track(record.id, self.summarise(record), masks))
        return VideoResult(tracks, self.info.size, length)
