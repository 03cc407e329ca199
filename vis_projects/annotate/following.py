"""The one worker that owns the network: follows objects, proposes objects, can be stopped."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..structures import InputError
from ..structures.errors import one_line
from ..structures.masks import decode_mask
from ..video import VideoPredictor
from ..video.proposals import proposed_above, shipped_finder
from .frames import FrameStore
from .project import Project

logger = logging.getLogger(__name__)

Listener = Callable[[dict[str, Any]], None]


class Follower:
    """Runs a system over stretches of the video, one at a time, in a thread.

    Args:
        make_predictor: builds the system; called when it is first needed.
        tell: takes events ``{"kind": "progress"|"done"|"failed", ...}``.
    """

    def __init__(
        self,
        frames: FrameStore,
        project: Project,
        make_predictor: Callable[[], VideoPredictor],
        tell: Listener,
    ) -> None:
        self.frames, self.project, self.tell = frames, project, tell
        self._make = make_predictor
        self._predictor: VideoPredictor | None = None
        self._finder: VideoPredictor | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()

    @property
    def busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def follow(self, start: int, direction: int, count: int, ids: Sequence[int] = ()) -> None:
        """Begin to follow objects from frame ``start`` over ``count`` frames.

        Args:
            direction: 1 forward, -1 backward.
            ids: of these objects; of all that have a mask in ``start`` without any.

        Raises:
            InputError: the worker is busy, the frame is not there or holds none of the objects.
        """
        if direction not in (1, -1):
            raise InputError(f"direction {direction}: 1 is forward, -1 backward")
        given = {
            i: decode_mask(rle)
            for i, rle in self.project.masks(start).items()
            if not ids or i in ids
        }
        given = {i: mask for i, mask in given.items() if mask.any()}
        if not given:
            raise InputError(f"frame {start} holds none of the objects: mark them there first")
        end = start + direction * max(int(count), 1)
        places = [t for t in range(start, end, direction) if 0 <= t < self.frames.length]
        last = places[-1] + direction
        if 0 <= last < self.frames.length:  # ``count`` frames beyond the one that is given
            places.append(last)
        self._begin(lambda: self._follow(places, given))

    def propose(self) -> None:
        """Begin to look for objects with a system that finds them itself."""
        self._begin(self._propose)

    def stop(self) -> None:
        """Ask the worker to end after the current frame."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the worker is done."""
        if self._thread is not None:
            self._thread.join(timeout)

    def _begin(self, work: Callable[[], int]) -> None:
        with self._lock:
            if self.busy:
                raise InputError("a run is under way: stop it first")
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
            self._thread.start()

    def _run(self, work: Callable[[], int]) -> None:
        try:
            done = work()
            self.tell({"kind": "done", "frames": done, "stopped": self._stop.is_set()})
        except Exception as error:
            reason = one_line(error)
            if reason is None:
                logger.exception("following failed")
                reason = f"{type(error).__name__}: {error}"
            self.tell({"kind": "failed", "reason": reason})

    @property
    def predictor(self) -> VideoPredictor:
        """The system; built in the worker's thread."""
        if self._predictor is None:
            self.tell({"kind": "progress", "text": "loading the network"})
            self._predictor = self._make()
        return self._predictor

    def _follow(self, places: Sequence[int], given: dict[int, np.ndarray]) -> int:
        predictor = self.predictor
        if not predictor.model.takes_masks:
            name = type(predictor.model).__name__
            raise InputError(f"{name} finds objects itself; follow with a VOS system")
        predictor.start(self.frames.size, masks=given)
        done = 0
        try:
            with self.project.following(places[1:]):
                for k, t in enumerate(places):
                    if self._stop.is_set():
                        break
                    # What a person drew on the way corrects the objects that are followed.
                    drawn = {i: m for i, m in self.project.drawn(t).items() if i in given}
                    corrections = {i: m for i, m in drawn.items() if m.any()} if k else None
                    result = predictor.step(self.frames.image(t), corrections or None)
                    done += 1
                    if k:
                        self.project.follow(t, _masks(result))
                        self.tell({"kind": "progress", "frame": t, "of": len(places), "done": done})
        finally:
            predictor.model.reset()
        return done

    @property
    def finder(self) -> VideoPredictor:
        """The system that proposes: the shipped one beside a system that follows."""
        if not self.predictor.model.takes_masks:
            return self.predictor
        if self._finder is None:
            self._finder = VideoPredictor(shipped_finder(str(self.predictor.model.device)))
        return self._finder

    def _propose(self) -> int:
        predictor = self.finder
        done = 0
        for _ in predictor(self.frames.source):
            done += 1
            self.tell({"kind": "progress", "of": self.frames.length, "done": done})
            if self._stop.is_set():
                break
        result = predictor.video_result
        names = predictor.class_names
        for track in sorted(result.tracks, key=lambda t: -t.score)[:20]:
            if track.score < proposed_above(predictor):
                break
            masks = {t: decode_mask(rle) for t, rle in enumerate(track.masks) if rle is not None}
            masks = {t: mask for t, mask in masks.items() if mask.any()}
            if not masks:
                continue
            name = names[track.category] if names else ""
            number = self.project.add_object(name, proposal=True, score=track.score)
            with self.project.following(list(masks)):
                for t, mask in masks.items():
                    self.project.follow(t, {number: mask})
        return done


def _masks(result: Any) -> dict[int, np.ndarray]:
    arrays = result.numpy()
    return dict(zip(arrays["ids"].tolist(), arrays["masks"]))
