"""Stage 3 of MSN: the forward and the backward run become one set of tracks.

Letters: F forward, B backward tracks, T frames, H x W pixels. (MSN, Section 3.1, stage 3; how
conflicts are resolved is chosen.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .association import best_pairs

# (frame, forward track, backward track) -> True if the forward mask is the better one.
MergeChooser = Callable[[Sequence[tuple[int, int, int]]], Sequence[bool]]
FORWARD, BACKWARD = 1, 2


@dataclass(frozen=True)
class Run:
    """The tracks of one direction.

    Attributes:
        present: bool (N, T), the track has a mask in the frame.
        classes, scores: N each.
    """

    present: np.ndarray
    classes: Sequence[int]
    scores: Sequence[float]

    def __len__(self) -> int:
        return len(self.classes)


@dataclass
class MergedTrack:
    """One track of the result.

    Attributes:
        members: (direction, track), forward tracks first, in ascending order.
        origin: int (T,): 0 no mask, FORWARD or BACKWARD.
        member: int (T,): track of that direction whose mask is taken, -1 without.
        category, score: those of the best-scoring member.
    """

    members: list[tuple[int, int]]
    origin: np.ndarray
    member: np.ndarray
    category: int
    score: float


def label_map_iou(forward: torch.Tensor, backward: torch.Tensor, f: int, b: int) -> torch.Tensor:
    """IoU (F, B), float64 on the host, of the labels 1..F and 1..B of two maps (H, W)."""
    joint = torch.bincount((forward.long() * (b + 1) + backward.long()).flatten(), minlength=1)
    table = torch.zeros((f + 1) * (b + 1), dtype=torch.float64)
    table[: len(joint)] = joint.cpu().double()
    table = table.view(f + 1, b + 1)
    shared = table[1:, 1:]
    union = table.sum(1)[1:, None] + table.sum(0)[None, 1:] - shared
    return shared / union.clamp(min=1)


def count_votes(
    ious: Sequence[torch.Tensor], threshold: float, *, allowed: torch.Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Votes (F, B) and summed IoU (F, B) over the frames in which two tracks are a pair.

    Args:
        ious: T matrices (F, B), float64 on the host.
        threshold: IoU that a pair must exceed.
        allowed: bool (F, B); other pairs count as not overlapping at all.
    """
    shape = tuple(ious[0].shape) if len(ious) else (0, 0)
    votes, total = np.zeros(shape, np.int64), np.zeros(shape, np.float64)
    for iou in ious:
        for i, j in best_pairs(iou if allowed is None else iou * allowed, threshold):
            votes[i, j] += 1
            total[i, j] += float(iou[i, j])
    return votes, total


def group_tracks(
    forward: Run, backward: Run, votes: np.ndarray, total: np.ndarray
) -> list[list[tuple[int, int]]]:
    """Join tracks that share a vote, greedily in descending IoU sum.

    Two groups stay apart if two tracks of one direction would then have a mask in the same frame;
    so one backward track can bridge two forward fragments, but never two objects.

    Returns:
        Groups of (direction, track), in the order of their first member, forward before backward.
    """
    nodes = [(FORWARD, i) for i in range(len(forward))]
    nodes += [(BACKWARD, j) for j in range(len(backward))]
    group_of = {node: [node] for node in nodes}

    def conflict(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> bool:
        for direction, run in ((FORWARD, forward), (BACKWARD, backward)):
            rows_a = [i for d, i in a if d == direction]
            rows_b = [i for d, i in b if d == direction]
            if rows_a and rows_b:
                both = run.present[rows_a].any(0) & run.present[rows_b].any(0)
                if both.any():
                    return True
        return False

    pairs = sorted(zip(*np.nonzero(votes)), key=lambda p: (-total[p], p[0], p[1]))
    for i, j in pairs:
        a, b = group_of[FORWARD, int(i)], group_of[BACKWARD, int(j)]
        if a is not b and not conflict(a, b):
            joined = sorted(a + b)
            for node in joined:
                group_of[node] = joined
    groups: list[list[tuple[int, int]]] = []
    for node in nodes:
        if group_of[node] not in groups:
            groups.append(group_of[node])
    return groups


def same_class_pairs(forward: Run, backward: Run) -> torch.Tensor:
    """Bool (F, B): the two tracks have one class."""
    f, b = (torch.tensor(list(run.classes), dtype=torch.int64) for run in (forward, backward))
    return f[:, None] == b[None]


def merge(
    forward: Run,
    backward: Run,
    ious: Sequence[torch.Tensor],
    *,
    threshold: float = 0.5,
    same_class: bool = False,
    forward_better: MergeChooser | None = None,
) -> list[MergedTrack]:
    """Merge two runs over T frames.

    Args:
        ious: per frame, (F, B) float64 on the host; see ``label_map_iou``.
        threshold: IoU above which two masks of a frame are one object.
        same_class: join only tracks of one class.
        forward_better: asked, once for all, where a group has a mask of either direction in a
            frame; None always takes the forward mask.
    """
    allowed = same_class_pairs(forward, backward) if same_class else None
    votes, total = count_votes(ious, threshold, allowed=allowed)
    if votes.size == 0:
        votes = total = np.zeros((len(forward), len(backward)), np.int64)
    groups = group_tracks(forward, backward, votes, total)
    frames = forward.present.shape[1]
    tracks, doubtful = [], []
    for members in groups:
        track = _lay_out(members, forward, backward, frames)
        for t, j in zip(*_doubles(members, forward, backward)):
            doubtful.append((int(t), int(track.member[t]), int(j), len(tracks)))
        tracks.append(track)
    if forward_better is not None and doubtful:
        answers = forward_better([(t, i, j) for t, i, j, _ in doubtful])
        for (t, _, j, k), better in zip(doubtful, answers):
            if not better:
                tracks[k].origin[t], tracks[k].member[t] = BACKWARD, j
    return tracks


def _owner(members: list[tuple[int, int]], direction: int, run: Run) -> np.ndarray:
    """Track of one direction that holds each frame, -1 without; at most one does."""
    rows = [i for d, i in members if d == direction]
    owner = np.full(run.present.shape[1], -1)
    for row in rows:
        owner[run.present[row]] = row
    return owner


def _doubles(
    members: list[tuple[int, int]], forward: Run, backward: Run
) -> tuple[np.ndarray, np.ndarray]:
    """Frames in which both directions have a mask, and the backward track there."""
    f, b = _owner(members, FORWARD, forward), _owner(members, BACKWARD, backward)
    (frames,) = np.nonzero((f >= 0) & (b >= 0))
    return frames, b[frames]


def _lay_out(
    members: list[tuple[int, int]], forward: Run, backward: Run, frames: int
) -> MergedTrack:
    """The track of a group with the forward mask wherever there is one."""
    f, b = _owner(members, FORWARD, forward), _owner(members, BACKWARD, backward)
    origin = np.zeros(frames, np.int64)
    origin[b >= 0] = BACKWARD
    origin[f >= 0] = FORWARD
    runs = {FORWARD: forward, BACKWARD: backward}
    direction, best = max(members, key=lambda m: (runs[m[0]].scores[m[1]], -m[0], -m[1]))
    return MergedTrack(
        members,
        origin,
        np.where(f >= 0, f, b),
        int(runs[direction].classes[best]),
        float(runs[direction].scores[best]),
    )
