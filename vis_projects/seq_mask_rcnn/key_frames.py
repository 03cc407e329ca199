"""Which frames of a video propose sequences (Propose-Reduce, section 3.1.1)."""

from __future__ import annotations

from ..structures import InputError

RULES = ("released", "paper")


def select_key_frames(length: int, count: int, *, rule: str = "released") -> list[int]:
    """Return ascending key frames of a video of ``length`` frames.

    "released" spreads them from the first to the last frame, g(k) = int((T - 1) / (K - 1) * k) in
    double precision; "paper" is Eq. 1, g(k) = max(floor(T / K), 1) k. For both (chosen): K = 1
    gives frame 0, indices beyond the video and repeated ones are dropped; K = 0 takes all frames.

    Raises:
        InputError: an unknown rule.
    """
    if rule not in RULES:
        raise InputError(
            f"MODEL.SEQ_MASK_RCNN.KEY_FRAME_RULE {rule!r} is unknown: use {' or '.join(RULES)}"
        )
    if length <= 0:
        return []
    if count <= 0:
        return list(range(length))
    if count == 1:
        return [0]
    if rule == "released":
        step = (length - 1) / (count - 1)
        frames = [int(step * k) for k in range(count)]
    else:
        frames = [max(length // count, 1) * k for k in range(count)]
    return sorted({t for t in frames if t < length})
