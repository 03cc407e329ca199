"""Stage 3 over a video: merge the directions, join held objects, write the tracks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..structures import RLE, InputError, Track, decode_masks, encode_masks
from .association import mask_iou
from .direction import Direction
from .human_object import find_owners, join_held
from .merging import FORWARD, MergedTrack, merge

# (frame, forward masks (N, H, W), backward masks (N, H, W)) -> N times "the forward one is better"
FrameChooser = Callable[[int, torch.Tensor, torch.Tensor], Sequence[bool]]


@dataclass(frozen=True)
class StageThreeRules:
    """Options of stage 3; see ``MODEL.MSN``.

    Raises:
        InputError: an unknown merge choice.
    """

    merge_iou: float = 0.5
    merge_choice: str = "msn"
    merge_same_class: bool = False
    resolve_overlap: bool = False
    max_tracks: int = 0
    human_object: bool = True
    person_class: int = 25
    held_classes: tuple[int, ...] = (3, 22, 28, 30, 32, 33)
    human_object_margin: float = 0.1

    def __post_init__(self) -> None:
        if self.merge_choice not in ("msn", "forward"):
            raise InputError(
                f"MODEL.MSN.MERGE_CHOICE {self.merge_choice!r} is unknown: use msn or forward"
            )

    @classmethod
    def from_options(cls, options: Any) -> StageThreeRules:
        """Read ``MODEL.MSN``."""
        return cls(
            merge_iou=options.MERGE_IOU,
            merge_choice=options.MERGE_CHOICE,
            merge_same_class=options.MERGE_SAME_CLASS,
            resolve_overlap=options.RESOLVE_OVERLAP,
            max_tracks=options.MAX_VIDEO_OBJECTS,
            human_object=options.HUMAN_OBJECT,
            person_class=options.PERSON_CLASS,
            held_classes=tuple(options.HELD_CLASSES),
            human_object_margin=options.HUMAN_OBJECT_MARGIN,
        )


def final_tracks(
    forward: Direction | None,
    backward: Direction | None,
    rules: StageThreeRules,
    *,
    device: torch.device,
    better: FrameChooser,
) -> list[Track]:
    """Return the tracks of a video, the best score last, so that it is painted on top.

    Args:
        forward, backward: the runs; None if the direction is switched off.
        better: chooses between the two directions' masks, asked once per frame at most.
    """
    shape = forward or backward
    assert shape is not None, "no direction was run"
    empty = Direction([], shape.length, shape.size)
    forward, backward = forward or empty, backward or empty
    merged = _merge(forward, backward, rules, device, better)
    masks = [_mask_rles(track, forward, backward) for track in merged]
    classes = [track.category for track in merged]
    scores = [track.score for track in merged]
    if rules.human_object:
        masks, classes, scores = _join(masks, classes, scores, rules, shape.size, device)
    if 0 < rules.max_tracks < len(masks):
        best = sorted(range(len(masks)), key=lambda i: (-scores[i], i))[: rules.max_tracks]
        kept = sorted(best)
        masks, classes, scores = ([part[i] for i in kept] for part in (masks, classes, scores))
    if rules.resolve_overlap:
        _resolve_overlaps(masks, scores, shape.size)
    tracks = [
        Track(i, {classes[i - 1]: scores[i - 1]}, masks[i - 1]) for i in range(1, len(masks) + 1)
    ]
    seen = [track for track in tracks if track.visible_frames]
    return sorted(seen, key=lambda track: track.score)


def _merge(
    forward: Direction,
    backward: Direction,
    rules: StageThreeRules,
    device: torch.device,
    better: FrameChooser,
) -> list[MergedTrack]:
    """Vote frame by frame, and ask once per frame about all tracks that have two masks there."""
    ious = []
    if forward.tracks and backward.tracks:
        for t in range(forward.length):
            pair = forward.masks(t, device), backward.masks(t, device)
            ious.append(mask_iou(*pair).cpu())

    def forward_better(asked: Sequence[tuple[int, int, int]]) -> list[bool]:
        answers = [True] * len(asked)
        for t in sorted({frame for frame, _, _ in asked}):
            rows = [k for k, (frame, _, _) in enumerate(asked) if frame == t]
            f, b = forward.masks(t, device), backward.masks(t, device)
            f, b = f[[asked[k][1] for k in rows]], b[[asked[k][2] for k in rows]]
            for k, answer in zip(rows, better(t, f, b)):
                answers[k] = bool(answer)
        return answers

    return merge(
        forward.run(),
        backward.run(),
        ious,
        threshold=rules.merge_iou,
        same_class=rules.merge_same_class,
        forward_better=forward_better if rules.merge_choice == "msn" else None,
    )


def _mask_rles(track: MergedTrack, forward: Direction, backward: Direction) -> list[RLE | None]:
    rles: list[RLE | None] = []
    for t, (origin, member) in enumerate(zip(track.origin.tolist(), track.member.tolist())):
        run = forward if origin == FORWARD else backward
        rles.append(run.tracks[member].masks[t] if origin else None)
    return rles


def _join(
    masks: list[list[RLE | None]],
    classes: list[int],
    scores: list[float],
    rules: StageThreeRules,
    size: tuple[int, int],
    device: torch.device,
) -> tuple[list[list[RLE | None]], list[int], list[float]]:
    """Join held objects; see ``human_object``. The higher score stays."""
    present = np.array([[m is not None for m in track] for track in masks], bool)

    def masks_of_frame(t: int, rows: Sequence[int]) -> torch.Tensor:
        return torch.from_numpy(decode_masks([masks[i][t] for i in rows], size)).to(device)

    owners = find_owners(
        masks_of_frame,
        present,
        classes,
        person=rules.person_class,
        held=rules.held_classes,
        margin=rules.human_object_margin,
    )
    groups = join_held(present, classes, owners)
    joined = [
        [next((m for m in frame if m is not None), None) for frame in zip(*(masks[i] for i in g))]
        for g in groups
    ]
    return joined, [classes[g[0]] for g in groups], [max(scores[i] for i in g) for g in groups]


def _resolve_overlaps(
    masks: list[list[RLE | None]], scores: list[float], size: tuple[int, int]
) -> None:
    """Leave every pixel to the best-scoring track that claims it; in place."""
    order = sorted(range(len(masks)), key=lambda i: (-scores[i], i))
    for t in range(len(masks[0]) if masks else 0):
        rows = [i for i in order if masks[i][t] is not None]
        dense = decode_masks([masks[i][t] for i in rows], size)
        taken = np.cumsum(dense, 0) - dense > 0
        free = dense & ~taken
        rles = encode_masks(free)
        for i, rle, visible in zip(rows, rles, free.any((1, 2))):
            masks[i][t] = rle if visible else None
