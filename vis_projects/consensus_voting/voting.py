"""Non-local consensus voting: every cell of a frame asks its nearest cells of other frames.

After Faktor and Irani, "Video Segmentation by Non-Local Consensus Voting" (BMVC 2014). There
super-pixels vote by motion, in many rounds; here cells of a pretrained trunk's maps vote once, by
the scores of the tracks that they lie on and by what a classifier sees there.

Letters: R references that vote on a frame, N tracks, h x w cells, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..modeling.matching import Remembered, propagate
from ..structures import Track, decode_masks, on_device


def reference_frames(length: int, count: int, span: int) -> list[int]:
    """Return the frames that vote, in order: ``count`` over a video of at most ``span`` frames, in
    a longer one as close as ``count`` are in ``span``; first and last frame among them."""
    gaps = max(count - 1, 1)
    if length > span:
        gaps = -(-gaps * (length - 1) // max(span - 1, 1))
    spread = np.linspace(0, length - 1, gaps + 1) if count > 1 else [(length - 1) // 2]
    return sorted({round(float(t)) for t in spread})


def nearest_references(t: int, references: Sequence[int], count: int) -> list[int]:
    """Return the ``count`` references nearest to frame t in time, in order."""
    return sorted(sorted(references, key=lambda r: (abs(r - t), r))[:count])


@dataclass
class Votes:
    """What a reference knows.

    Attributes:
        features: (C, h, w), unit length.
        ids: of the tracks that it shows.
        cells: (1 + len(ids), h, w): the evidence, then the share of each track in a cell times the
            track's score.
    """

    features: Tensor
    ids: list[int]
    cells: Tensor


def votes_of(
    features: Tensor,
    evidence: Tensor | None,
    tracks: Sequence[Track],
    frame: int,
    size: tuple[int, int],
) -> Votes:
    """Return what a frame says.

    Args:
        features: (C, h, w).
        evidence: (h', w'), weighted; None for none.
        tracks: of the whole video, masks of ``size`` (H, W).
    """
    grid, device = features.shape[-2:], features.device
    shown = [track for track in tracks if track.masks[frame] is not None]
    cells = features.new_zeros(1 + len(shown), *grid)
    if evidence is not None:
        cells[:1] = F.interpolate(evidence[None, None], grid, mode="bilinear")[0]
    if shown:
        masks = torch.from_numpy(decode_masks([track.masks[frame] for track in shown], size))
        masks = masks.to(device, non_blocking=True)
        scores = torch.tensor([track.score for track in shown]).to(device, non_blocking=True)
        shares = F.interpolate(masks[None].float(), grid, mode="area")[0]
        cells[1:] = shares * scores[:, None, None]
    return Votes(features, [track.id for track in shown], cells)


def tally(
    features: Tensor,
    voters: Sequence[Votes],
    ids: Sequence[int],
    *,
    top_k: int,
    sharpness: float,
    chunk_mb: float = 32.0,
) -> Tensor:
    """Return (1 + N, h, w): the mean over R references of what the nearest cells say.

    Args:
        features: of the frame, (C, h, w).
        voters: the R references, at least one.
        ids: of the N tracks that are counted.
        top_k, sharpness, chunk_mb: see ``MODEL.FEATURE_MATCH``.
    """
    total = features.new_zeros(1 + len(ids), *features.shape[-2:])
    row = {i: 1 + n for n, i in enumerate(ids)}
    for voter in voters:
        said = propagate(
            features,
            [Remembered(voter.features, voter.cells)],
            None,
            top_k=top_k,
            sharpness=sharpness,
            chunk_mb=chunk_mb,
        )
        total.index_add_(0, on_device([0, *(row[i] for i in voter.ids)], total.device), said)
    return total / len(voters)


def masks_by_votes(votes: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    """Return masks, bool (N, H, W), of votes (1 + N, h, w); disjoint.

    A pixel is an object's if evidence and all tracks together exceed the threshold; it goes to the
    track with the most votes.
    """
    if len(votes) == 1:
        return torch.zeros((0, *size), dtype=torch.bool, device=votes.device)
    fine = F.interpolate(votes[None], size, mode="bilinear", align_corners=False)[0]
    most, owner = fine[1:].max(0)
    inside = (fine.sum(0) > threshold) & (most > 0)
    rows = torch.arange(len(votes) - 1, device=votes.device)
    return inside & (owner == rows[:, None, None])


def shared_votes(votes: Tensor) -> Tensor:
    """Return how many votes each two tracks have in the same cells, (N, N), of votes (1 + N, h, w):
    the sum over cells of the lesser of both; on the diagonal each track's own."""
    said = votes[1:].flatten(1)
    total = said.sum(1)
    return (total[:, None] + total - torch.cdist(said, said, p=1)) / 2


def same_objects(shared: np.ndarray, threshold: float = 0.5) -> list[list[int]]:
    """Return groups of tracks that are one object: pieces of it in time or in space.

    From the track with the most votes down, each joins the first group whose first track has more
    than this share of its votes.

    Args:
        shared: (N, N), see ``shared_votes``, over the whole video.
    """
    groups: list[list[int]] = []
    for n in sorted(range(len(shared)), key=lambda n: (-shared[n, n], n)):
        own = shared[n, n]
        for group in groups:
            if own > 0 and shared[n, group[0]] > threshold * own:
                group.append(n)
                break
        else:
            groups.append([n])
    return groups
