"""Memory K-propagation: from every key frame to both ends of the video (Propose-Reduce, Alg. 1).

All streams, a stream being one key frame and one direction, advance together: after d steps every
memory has equally many entries, so their instances form one batch. Instances of different streams
never interact.

Letters: R rows (instances of streams), M memory entries, L positions at stride 16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from detectron2.config import configurable

from ..modeling import stage, steps
from .aggregation import aggregate_groups
from .seq_prop_head import FrameQuery, SeqPropHead, positions_first, rows_of


@dataclass(frozen=True)
class FrameFeatures:
    """What propagation needs of a frame.

    Attributes:
        p2: (1, C, H / 4, W / 4).
        query: of the Seq-Prop head.
    """

    p2: torch.Tensor
    query: FrameQuery


@dataclass(frozen=True)
class Proposal:
    """The instances of a key frame.

    Attributes:
        frame: the key frame.
        masks: (O, h, w) with O > 0: binary, un-padded.
        first: number of its first sequence; they are ``first`` .. ``first + O - 1``.
    """

    frame: int
    masks: torch.Tensor
    first: int = 0

    @property
    def rows(self) -> slice:
        return slice(self.first, self.first + len(self.masks))


@dataclass(frozen=True)
class Stream:
    """One key frame and direction: ``frames`` in order, without the key frame."""

    proposal: int
    rows: slice
    frames: range

    @property
    def count(self) -> int:
        return self.rows.stop - self.rows.start


GetFeatures = Callable[[int], FrameFeatures]
Store = Callable[[slice, int, torch.Tensor], None]  # sequences, frame, soft masks (n, H, W)


def memory_step(length: int, *, mem_step: int = 1, mem_num: int = 0) -> int:
    """Frames between memory entries: max(T // mem_num, 1) if ``mem_num`` is set (DAVIS)."""
    return max(length // mem_num, 1) if mem_num > 0 else max(mem_step, 1)


def memory_entries(distance: int, step: int) -> int:
    """Entries that the frame at a distance >= 1 from the key frame sees."""
    return 1 + (distance - 1) // step


class KPropagation:
    """Propagates proposals through a video.

    Args:
        mem_step, mem_num: see ``memory_step``.
        max_rows: rows that advance together at most; their memory lives at a time. A single
            stream may exceed it.
        chunk_rows: rows in one call of the network, which bounds its activations.
        redo_key_frame: the sequence's mask in the key frame is the re-segmented one (released);
            otherwise the proposal itself (Alg. 1).
    """

    @configurable
    def __init__(
        self,
        *,
        mem_step: int = 1,
        mem_num: int = 0,
        max_rows: int = 32,
        chunk_rows: int = 4,
        redo_key_frame: bool = True,
    ) -> None:
        self.mem_step, self.mem_num = mem_step, mem_num
        self.max_rows = max(max_rows, 1)
        self.chunk_rows = max(chunk_rows, 1)
        self.redo_key_frame = redo_key_frame

    @classmethod
    def from_config(cls, cfg) -> dict:
        node = cfg.MODEL.SEQ_MASK_RCNN
        return {
            "mem_step": node.MEM_STEP,
            "mem_num": node.MEM_NUM,
            "max_rows": node.MAX_ROWS,
            "chunk_rows": node.CHUNK_ROWS,
            "redo_key_frame": node.REDO_KEY_FRAME,
        }

    def run(
        self,
        head: SeqPropHead,
        features: GetFeatures,
        proposals: Sequence[Proposal],
        *,
        length: int,
        store: Store,
    ) -> None:
        """Segment every frame for every proposal.

        Args:
            features: of a frame; called again whenever they are needed.
            length: T.
            store: takes the aggregated soft masks (n, H, W) of some sequences in a frame.
        """
        step = memory_step(length, mem_step=self.mem_step, mem_num=self.mem_num)
        seeds = [self._seed(head, features, p, store) for p in proposals]
        for group in group_streams(make_streams(proposals, length), self.max_rows):
            self._advance(head, features, group, seeds, step, store)

    def _seed(
        self, head: SeqPropHead, features: GetFeatures, proposal: Proposal, store: Store
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """First memory entry of a key frame, (O, L, A) and (O, L, V)."""
        frame = features(proposal.frame)
        masks = proposal.masks.float()
        with stage("memorize"):
            parts = [
                tuple(positions_first(x) for x in head.memorize(frame.p2, m))
                for m in masks.split(self.chunk_rows)
            ]
            keys, values = (torch.cat(x) for x in zip(*parts))
        if self.redo_key_frame:
            with stage("segment"):
                soft = torch.cat(
                    [
                        head.segment(frame.query, k, v)
                        for k, v in zip(keys.split(self.chunk_rows), values.split(self.chunk_rows))
                    ]
                )
            soft = aggregate_groups(soft, [len(soft)])
        else:
            height, width = (4 * n for n in frame.p2.shape[-2:])
            soft = masks.new_zeros((len(masks), height, width))
            soft[:, : masks.shape[1], : masks.shape[2]] = masks
        store(proposal.rows, proposal.frame, soft)
        return keys, values

    def _advance(
        self,
        head: SeqPropHead,
        features: GetFeatures,
        streams: Sequence[Stream],
        seeds: Sequence[tuple[torch.Tensor, torch.Tensor]],
        step: int,
        store: Store,
    ) -> None:
        """Move streams, the longest first, in lock step; those at their end drop out."""
        keys, values = _allocate(streams, seeds, step)
        length = len(streams[0].frames)
        for distance in steps(range(1, length + 1), length, "propagation"):
            active = [s for s in streams if len(s.frames) >= distance]
            entries = memory_entries(distance, step)
            soft = self.step(head, features, active, (keys, values), distance, entries)
            counts = [s.count for s in active]
            for stream, masks in zip(active, soft.split(counts)):
                store(stream.rows, stream.frames[distance - 1], masks)
            # What a stream would remember of its last frame is never read.
            going_on = [s for s in active if len(s.frames) > distance]
            if distance % step == 0 and going_on:
                self.remember(head, features, going_on, (keys, values), distance, entries, soft)

    def step(
        self,
        head: SeqPropHead,
        features: GetFeatures,
        active: Sequence[Stream],
        memory: tuple[torch.Tensor, torch.Tensor],
        distance: int,
        entries: int,
    ) -> torch.Tensor:
        """Segment the frames at a distance from the key frames: (R, H, W), aggregated.

        Args:
            memory: keys (R', M' L, A) and values (R', M' L, V), whose first rows are the active
                streams' and of which ``entries`` are filled.
        """
        frames = [s.frames[distance - 1] for s in active]
        seen = slice(0, entries * features(frames[0]).query.key[0, 0].numel())
        counts = [s.count for s in active]
        with stage("segment"):
            soft = torch.cat(
                [
                    head.segment(
                        self._query(features, frames, owners),
                        memory[0][rows, seen],
                        memory[1][rows, seen],
                    )
                    for rows, owners in self._chunks(counts)
                ]
            )
            return aggregate_groups(soft, counts)

    def remember(
        self,
        head: SeqPropHead,
        features: GetFeatures,
        streams: Sequence[Stream],
        memory: tuple[torch.Tensor, torch.Tensor],
        distance: int,
        entries: int,
        soft: torch.Tensor,
    ) -> None:
        """Write the entry after ``entries`` for streams: their soft masks at a distance."""
        frames = [s.frames[distance - 1] for s in streams]
        with stage("memorize"):
            for rows, owners in self._chunks([s.count for s in streams]):
                new = head.memorize(self._p2(features, frames, owners), soft[rows])
                for part, x in zip(memory, new):
                    x = positions_first(x)
                    place = slice(entries * x.shape[1], (entries + 1) * x.shape[1])
                    part[rows, place] = x.to(part.dtype)

    def _chunks(self, counts: Sequence[int]) -> list[tuple[slice, list[int]]]:
        """Cut the rows of streams into chunks; every chunk knows its rows' streams."""
        owners = [i for i, count in enumerate(counts) for _ in range(count)]
        return [
            (slice(a, min(a + self.chunk_rows, len(owners))), owners[a : a + self.chunk_rows])
            for a in range(0, len(owners), self.chunk_rows)
        ]

    @staticmethod
    def _query(features: GetFeatures, frames: Sequence[int], owners: list[int]) -> FrameQuery:
        wanted = sorted({frames[i] for i in owners})
        queries = [features(t).query for t in wanted]
        if len(queries) == 1:
            return queries[0]
        batch = FrameQuery(
            torch.cat([q.key for q in queries]),
            torch.cat([q.value for q in queries]),
            {name: torch.cat([q.skips[name] for q in queries]) for name in queries[0].skips},
        )
        return rows_of(batch, [wanted.index(frames[i]) for i in owners])

    @staticmethod
    def _p2(features: GetFeatures, frames: Sequence[int], owners: list[int]) -> torch.Tensor:
        wanted = sorted({frames[i] for i in owners})
        maps = [features(t).p2 for t in wanted]
        if len(maps) == 1:
            return maps[0]
        index = [wanted.index(frames[i]) for i in owners]
        return torch.cat(maps)[torch.as_tensor(index, device=maps[0].device)]


def make_streams(proposals: Sequence[Proposal], length: int) -> list[Stream]:
    """Return the streams that have a frame to go, longest first."""
    streams = []
    for i, proposal in enumerate(proposals):
        forward = range(proposal.frame + 1, length)
        backward = range(proposal.frame - 1, -1, -1)
        streams += [Stream(i, proposal.rows, frames) for frames in (forward, backward) if frames]
    return sorted(streams, key=lambda s: -len(s.frames))


def group_streams(streams: Sequence[Stream], max_rows: int) -> list[list[Stream]]:
    """Cut streams, in their order, into groups of at most ``max_rows`` rows."""
    groups: list[list[Stream]] = []
    rows = 0
    for stream in streams:
        if groups and rows + stream.count <= max_rows:
            groups[-1].append(stream)
            rows += stream.count
        else:
            groups.append([stream])
            rows = stream.count
    return groups


def _allocate(
    streams: Sequence[Stream], seeds: Sequence[tuple[torch.Tensor, torch.Tensor]], step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return memories (R, M_max L, A) and (R, M_max L, V) that hold the key frames' entries."""
    entries = memory_entries(len(streams[0].frames), step)
    rows = sum(s.count for s in streams)
    out = []
    for part in (0, 1):
        seed = seeds[0][part]
        memory = seed.new_empty((rows, entries * seed.shape[1], seed.shape[2]))
        at = 0
        for stream in streams:
            memory[at : at + stream.count, : seed.shape[1]] = seeds[stream.proposal][part]
            at += stream.count
        out.append(memory)
    return out[0], out[1]
