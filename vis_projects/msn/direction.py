"""Stage 2 over a video in one direction: propagate, associate, select, add (MSN, Section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

from ..modeling import Propagator, stage
from ..structures import RLE, Frame, decode_masks, encode_masks, label_map_to_masks
from .association import Chooser, FrameDecision, StageTwoRules, class_and_score, decide_frame
from .detections import Detections, clean_up
from .merging import Run

# Called with frame, propagated masks, segmented masks and the decision; the pairs tool listens.
OnDecision = Callable[[Frame, torch.Tensor, torch.Tensor, FrameDecision], None]


@dataclass
class DirectionTrack:
    """A track of one direction.

    Attributes:
        birth_class: of the detection that it began with; it never changes.
        detections: (frame, class, score) of all associated detections, the first included.
        masks: RLE per frame in which it has pixels.
    """

    birth_class: int
    detections: list[tuple[int, int, float]] = field(default_factory=list)
    masks: dict[int, RLE] = field(default_factory=dict)


@dataclass
class Direction:
    """The tracks of a run over T frames of H x W pixels."""

    tracks: list[DirectionTrack]
    length: int
    size: tuple[int, int]

    def run(self) -> Run:
        """Presence, final classes and scores, for merging."""
        present = np.zeros((len(self.tracks), self.length), bool)
        for row, track in zip(present, self.tracks):
            row[list(track.masks)] = True
        final = [class_and_score(track.detections) for track in self.tracks]
        return Run(present, [c for c, _ in final], [s for _, s in final])

    def masks(self, frame: int, device: torch.device) -> torch.Tensor:
        """Bool (N, H, W) of a frame; disjoint."""
        rles = [track.masks.get(frame) for track in self.tracks]
        return torch.from_numpy(decode_masks(rles, self.size)).to(device)


def run_direction(
    frames: Iterable[Frame],
    length: int,
    size: tuple[int, int],
    *,
    propagator: Propagator,
    detect: Callable[[Frame], Detections],
    chooser: Callable[[Frame], Chooser],
    rules: StageTwoRules,
    device: torch.device,
    clean: bool = False,
    on_decision: OnDecision | None = None,
) -> Direction:
    """Run stage 2 over frames in the given order.

    Frames before the first detection stay empty. Tracks are never dropped: one that vanishes keeps
    its label, and what appears in its place is a new track.

    Args:
        frames: in the order of the direction; ``Frame.index`` says where they belong.
        detect: gives the detections of a frame that enter stage 2.
        chooser: gives the choice between masks for a frame.
        clean: see ``MODEL.MSN.CLEAN_UP``.
    """
    result = Direction([], length, size)
    propagator.reset(size)
    for frame in frames:
        found = detect(frame)
        if not result.tracks and len(found) == 0:
            continue
        ids = list(range(1, len(result.tracks) + 1))
        if ids:
            with stage("propagation"):
                label = propagator.predict(frame).label_map
            if clean:
                label = clean_up(label, ids)
        else:
            label = torch.zeros(size, dtype=torch.int64, device=device)
        propagated, segmented = label_map_to_masks(label, ids), found.masks(label.device)
        decision = decide_frame(
            propagated,
            torch.tensor([t.birth_class for t in result.tracks], dtype=torch.int64).to(device),
            segmented,
            torch.tensor(found.classes, dtype=torch.int64).to(device),
            torch.tensor(found.scores, dtype=torch.float64).to(device),
            choose=chooser(frame),
            rules=rules,
        )
        _remember(result, frame.index, decision, found)
        new_ids = list(range(len(ids) + 1, len(result.tracks) + 1))
        with stage("propagation"):
            propagator.commit(decision.label, new_ids, frame=frame, reference=bool(new_ids))
        if on_decision is not None:
            on_decision(frame, propagated, segmented, decision)
    return result


def _remember(result: Direction, index: int, decision: FrameDecision, found: Detections) -> None:
    """Note associations, births and masks of a frame."""
    for i, j in decision.pairs:
        result.tracks[j].detections.append((index, found.classes[i], found.scores[i]))
    for i in decision.new:
        born = (index, found.classes[i], found.scores[i])
        result.tracks.append(DirectionTrack(found.classes[i], [born]))
    masks = label_map_to_masks(decision.label, range(1, len(result.tracks) + 1)).cpu()
    seen = masks.flatten(1).any(1).tolist()
    rles = encode_masks(masks[torch.tensor(seen, dtype=torch.bool)])
    for track, rle in zip((t for t, s in zip(result.tracks, seen) if s), rles):
        track.masks[index] = rle
