"""Frame samplers: which frames of which video make up a training item.

A sampler numbers its *keys* (a frame, or an object, of some video) and turns a key and a random
generator into a ``ClipItem``. An epoch is every key once; order and mixing are in
``sampling_order``.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from ...config import register_names
from ...structures import InputError, check_name
from .visibility import VideoIndex

logger = logging.getLogger(__name__)

FRAME_SAMPLER_REGISTRY: dict[str, type[FrameSampler]] = {}  # by the name in INPUT.SAMPLER.NAME
register_names("INPUT.SAMPLER.NAME", lambda: FRAME_SAMPLER_REGISTRY)


def register_frame_sampler(name: str) -> Callable[[type[FrameSampler]], type[FrameSampler]]:
    """Register a FrameSampler class under the name that ``INPUT.SAMPLER.NAME`` gives."""

    def register(cls: type[FrameSampler]) -> type[FrameSampler]:
        if FRAME_SAMPLER_REGISTRY.get(name, cls) is not cls:
            raise ValueError(f"two frame samplers are called {name!r}")
        FRAME_SAMPLER_REGISTRY[name] = cls
        return cls

    return register


@dataclass(frozen=True)
class ClipItem:
    """What a training item is made of.

    Attributes:
        video: index of the video in its data set.
        frames: frame indices in the order in which the system gets them.
        object_id: the one object that the item is about, or None for all.
    """

    video: int
    frames: tuple[int, ...]
    object_id: int | None = None


class FrameSampler(ABC):
    """Base class: keys are the usable frames of all videos.

    Args:
        videos: the data set.
        max_gap: of this data set, see ``INPUT.SAMPLER.MAX_GAP``.

    Raises:
        InputError: the data set has no usable frame or object.
    """

    flat = False  # items are single images in Detectron2's layout

    def __init__(self, videos: Sequence[dict[str, Any]], *, max_gap: int = 1) -> None:
        self.index = [VideoIndex(v) for v in videos]
        self.max_gap = max_gap
        self.usable = [v.usable_frames() for v in self.index]
        self.keys = self.make_keys()
        if len(self.keys) == 0:
            raise InputError(f"{type(self).__name__}: {self.why_nothing()}")

    def why_nothing(self) -> str:
        """Return what a data set without a single key lacks, and what to do."""
        return (
            "the data set has no annotated frame to train on; check its annotations "
            "(vis data check)"
        )

    def left_out(self) -> dict[str, int]:
        """Return of how many videos or objects no item is made, by the reason."""
        empty = sum(not frames for frames in self.usable)
        unused = len(self.index) - len(np.unique(self.keys[:, 0])) - empty
        found = {"videos without an object": empty, "videos by the sampler's rule": unused}
        return {why: count for why, count in found.items() if count}

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the keyword arguments that the options under ``INPUT.SAMPLER`` set."""
        return {}

    def make_keys(self) -> np.ndarray:
        """Return the keys, int64 (K, 2): the video and a frame (or another number) in it."""
        return np.array(
            [(v, t) for v, frames in enumerate(self.usable) for t in frames], np.int64
        ).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.keys)

    def sample(self, key: int, rng: np.random.Generator) -> ClipItem:
        """Return the item of a key; other frames are drawn from ``rng``."""
        video, t = (int(n) for n in self.keys[key])
        return ClipItem(video, tuple(self.frames(video, t, rng)))

    @abstractmethod
    def frames(self, video: int, t: int, rng: np.random.Generator) -> Sequence[int]:
        """Return the frames that go with key frame t."""

    def wide(self, key: int) -> bool:
        """Tell whether a key's video is wider than high."""
        return self.index[self.keys[key, 0]].wide

    def classes(self, key: int) -> set[int]:
        """Return the classes that a key's frame shows."""
        video, t = (int(n) for n in self.keys[key])
        return self.index[video].frame_classes(t)


@register_frame_sampler("still")
class StillSampler(FrameSampler):
    """One frame: a detector's training image."""

    flat = True

    def frames(self, video: int, t: int, rng: np.random.Generator) -> Sequence[int]:
        return (t,)


class RangedSampler(FrameSampler):
    """A rule bounded by ``frame_range``, the largest distance between frames; 0 or less: none."""

    def __init__(
        self, videos: Sequence[dict[str, Any]], *, frame_range: int = 0, **base: Any
    ) -> None:
        self.frame_range = frame_range
        super().__init__(videos, **base)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {"frame_range": cfg.INPUT.SAMPLER.RANGE}


@register_frame_sampler("pair")
class PairSampler(RangedSampler):
    """A key frame and another usable frame at most RANGE frames away (CrossVIS, SAMPLE_REGION).

    A frame without partner is paired with itself.
    """

    def frames(self, video: int, t: int, rng: np.random.Generator) -> Sequence[int]:
        near = self.frame_range if self.frame_range > 0 else self.index[video].length
        others = [s for s in self.usable[video] if s != t and abs(s - t) <= near]
        return (t, others[rng.integers(len(others))] if others else t)


@register_frame_sampler("covering_pair")
class CoveringPairSampler(RangedSampler):
    """A query frame and a guidance frame that shows its objects (Propose-Reduce).

    The guidance frame shares at least one object with the query; of every class in both frames it
    shows all objects of the query. If there is none, it is the query frame itself.
    """

    def frames(self, video: int, t: int, rng: np.random.Generator) -> Sequence[int]:
        candidates = self.covering(video, t)
        return (t, int(candidates[rng.integers(len(candidates))]) if len(candidates) else t)

    def covering(self, video: int, t: int) -> np.ndarray:
        """Return the frames that may guide query frame t."""
        index = self.index[video]
        seen = index.visible()
        shared = seen & seen[t]
        classes = np.asarray(index.classes)
        allowed = shared.any(1)
        for c in np.unique(classes[seen[t]]):
            same = classes == c
            present = seen[:, same].any(1)
            complete = (seen[:, same & seen[t]]).all(1)
            allowed &= ~present | complete
        allowed[t] = False
        if self.frame_range > 0:
            allowed &= np.abs(np.arange(len(allowed)) - t) <= self.frame_range
        return np.flatnonzero(allowed)


@register_frame_sampler("consecutive")
class ConsecutiveSampler(FrameSampler):
    """Frames (t - gap, t), gap drawn from 1..MAX_GAP (SRNet); a one-frame video gives (0, 0)."""

    def make_keys(self) -> np.ndarray:
        keys = [
            (v, t)
            for v, frames in enumerate(self.usable)
            for t in frames
            if t > 0 or self.index[v].length == 1
        ]
        return np.array(keys, np.int64).reshape(-1, 2)

    def frames(self, video: int, t: int, rng: np.random.Generator) -> Sequence[int]:
        if t == 0:
            return (0, 0)
        return (t - int(rng.integers(1, min(self.max_gap, t) + 1)), t)


@register_frame_sampler("reference_and_validation")
class ReferenceAndValidationSampler(FrameSampler):
    """A frame that shows one object, and other frames of the video (FRTM).

    Keys are (video, object). The reference is drawn from the frames where the object has at least
    ``min_pixels`` and ``min_fraction`` of its largest area, or is the first of them (``reference``
    "any", "first"); ``count - 1`` validation frames are drawn without replacement from all others.
    Videos of fewer than ``min_length`` frames are skipped; with "first" objects without such a
    frame are, too, which otherwise take their best.

    Raises:
        InputError: another value of ``reference``.
    """

    def __init__(
        self,
        videos: Sequence[dict[str, Any]],
        *,
        count: int = 3,
        min_pixels: int = 100,
        min_fraction: float = 0.0,
        min_length: int = 4,
        reference: str = "any",
        **base: Any,
    ) -> None:
        if reference not in ("any", "first"):
            raise InputError(f"INPUT.SAMPLER.REFERENCE {reference!r}: use any or first")
        self.count, self.first_only = count, reference == "first"
        self.min_pixels, self.min_fraction = min_pixels, min_fraction
        self.min_length = max(min_length, count)
        super().__init__(videos, **base)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        options = cfg.INPUT.SAMPLER
        return {
            "count": options.FRAMES,
            "min_pixels": options.MIN_PIXELS,
            "min_fraction": options.MIN_FRACTION,
            "min_length": options.MIN_LENGTH,
            "reference": options.REFERENCE,
        }

    def make_keys(self) -> np.ndarray:
        long = [v for v, frames in enumerate(self.usable) if len(frames) >= self.min_length]
        if 0 < len(long) < len(self.index):
            logger.warning(
                "%d of %d videos are left out: %s",
                len(self.index) - len(long),
                len(self.index),
                self._too_short(),
            )
        keys = [
            (v, k)
            for v in long
            for k in range(len(self.index[v].ids))
            if not self.first_only or len(self.references(v, k))
        ]
        return np.array(keys, np.int64).reshape(-1, 2)

    def left_out(self) -> dict[str, int]:
        lengths = [len(frames) for frames in self.usable]
        objects = [len(v.ids) for v, n in zip(self.index, lengths) if n >= self.min_length]
        found = {
            "videos without an object": lengths.count(0),
            f"videos: {self._too_short()}": sum(0 < n < self.min_length for n in lengths),
            f"objects that never cover INPUT.SAMPLER.MIN_PIXELS {self.min_pixels}": sum(objects)
            - len(self.keys),
        }
        return {why: count for why, count in found.items() if count}

    def _too_short(self) -> str:
        return (
            f"they have fewer than {self.min_length} annotated frames (the larger of "
            f"INPUT.SAMPLER.FRAMES {self.count} and MIN_LENGTH)"
        )

    def why_nothing(self) -> str:
        longest = max(map(len, self.usable), default=0)
        if 0 < longest < self.min_length:
            remedy = (
                f"set INPUT.SAMPLER.FRAMES and INPUT.SAMPLER.MIN_LENGTH to {longest} or less"
                if longest > 1
                else "at least two are needed, a reference and a frame to segment"
            )
            return (
                f"no video can be trained on: {self._too_short()}, the longest has {longest}; "
                + remedy
            )
        if longest and self.first_only:
            return (
                f"no object covers INPUT.SAMPLER.MIN_PIXELS {self.min_pixels} pixels anywhere; "
                "lower it, or set INPUT.SAMPLER.REFERENCE any"
            )
        return super().why_nothing()

    def sample(self, key: int, rng: np.random.Generator) -> ClipItem:
        video, k = (int(n) for n in self.keys[key])
        return ClipItem(video, tuple(self.frames(video, k, rng)), self.index[video].ids[k])

    def references(self, video: int, k: int) -> np.ndarray:
        """Return the frames in which the video's object number k is well visible."""
        areas = self.index[video].areas()[:, k]
        need = max(self.min_pixels, self.min_fraction * areas.max(initial=0), 1)
        return np.flatnonzero(areas >= need)

    def frames(self, video: int, t: int, rng: np.random.Generator) -> Sequence[int]:
        candidates = self.references(video, t)
        if len(candidates) == 0:  # too small everywhere: its best frame
            candidates = self.index[video].areas()[:, t].argmax(keepdims=True)
        pick = 0 if self.first_only else rng.integers(len(candidates))
        reference = int(candidates[pick])
        others = [s for s in self.usable[video] if s != reference]
        return (reference, *(int(s) for s in rng.permutation(others)[: self.count - 1]))

    def classes(self, key: int) -> set[int]:
        video, k = (int(n) for n in self.keys[key])
        return {self.index[video].classes[k]}


@register_frame_sampler("clip")
class ClipSampler(FrameSampler):
    """A reference frame, a later one, and the frames that follow it (CFBI).

    The key is the reference. The rest are ``count - 1`` frames with gaps drawn from 1..MAX_GAP, all
    later than the reference, or with probability ``reverse_prob`` all earlier, in that order. The
    first of them lies up to ``reference_gap`` frames from the reference (0: anywhere). A short
    video repeats its last frame.
    """

    def __init__(
        self,
        videos: Sequence[dict[str, Any]],
        *,
        count: int = 5,
        reference_gap: int = 0,
        reverse_prob: float = 0.5,
        **base: Any,
    ) -> None:
        self.count, self.reference_gap, self.reverse_prob = count, reference_gap, reverse_prob
        super().__init__(videos, **base)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        options = cfg.INPUT.SAMPLER
        return {
            "count": options.FRAMES,
            "reference_gap": options.REFERENCE_GAP,
            "reverse_prob": options.REVERSE_PROB,
        }

    def frames(self, video: int, t: int, rng: np.random.Generator) -> Sequence[int]:
        frames = self.usable[video]
        reverse = rng.random() < self.reverse_prob
        gaps = rng.integers(1, self.max_gap + 1, self.count - 1)
        ahead = rng.random()
        at = frames.index(t)
        room = at if reverse else len(frames) - 1 - at
        if room < self.count - 1:  # too close to the end: the other direction if it has more room
            reverse, room = (True, at) if at > room and not reverse else (reverse, room)
        slack = max(room - int(gaps[1:].sum()), 1)
        limit = min(slack, self.reference_gap) if self.reference_gap > 0 else slack
        gaps[0] = 1 + int(ahead * limit)
        steps = np.minimum(np.cumsum(gaps), room) * (-1 if reverse else 1)
        return (t, *(frames[at + int(s)] for s in steps))


@register_frame_sampler("window")
class WindowSampler(FrameSampler):
    """A key frame and ``count - 1`` others within RANGE frames, drawn without replacement if there
    are enough, in temporal order (the clips of recent Detectron2 VIS projects)."""

    def __init__(
        self,
        videos: Sequence[dict[str, Any]],
        *,
        count: int = 2,
        frame_range: int = 20,
        **base: Any,
    ) -> None:
        self.count, self.frame_range = count, frame_range
        super().__init__(videos, **base)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {"count": cfg.INPUT.SAMPLER.FRAMES, "frame_range": cfg.INPUT.SAMPLER.RANGE}

    def frames(self, video: int, t: int, rng: np.random.Generator) -> Sequence[int]:
        near = self.frame_range if self.frame_range > 0 else self.index[video].length
        others = [s for s in self.usable[video] if s != t and abs(s - t) <= near] or [t]
        picked = rng.choice(others, self.count - 1, replace=len(others) < self.count - 1)
        return sorted([t, *(int(s) for s in picked)])


def build_frame_sampler(
    cfg: CfgNode, videos: Sequence[dict[str, Any]], *, max_gap: int | None = None
) -> FrameSampler:
    """Build the sampler that ``INPUT.SAMPLER.NAME`` names for one data set.

    Raises:
        InputError: unknown name, or nothing to sample from.
    """
    name = cfg.INPUT.SAMPLER.NAME
    check_name("INPUT.SAMPLER.NAME", name, FRAME_SAMPLER_REGISTRY)
    cls = FRAME_SAMPLER_REGISTRY[name]
    gap = cfg.INPUT.SAMPLER.MAX_GAP if max_gap is None else max_gap
    return cls(videos, max_gap=gap, **cls.from_config(cfg))
