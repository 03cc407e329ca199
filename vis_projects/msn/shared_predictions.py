"""One propagator for several runs over one video: what was predicted once is not computed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..modeling import Propagation, Propagator
from ..structures import Frame


@dataclass(frozen=True, eq=False)
class _Committed:
    """A committed frame; ``key`` tells it from others."""

    frame: Frame
    label_map: torch.Tensor
    new_ids: tuple[int, ...]
    key: tuple[int, bytes, tuple[int, ...]]


class SharedPredictions(Propagator):
    """Remembers predictions by the state that they follow from, so that runs of a video share them.

    For propagators whose prediction depends on the reference frames and the frame before, and on
    nothing else (CFBI). Runs that decided the same for those frames share a prediction, even if
    they differed in between; results are those of the propagator alone.

    Args:
        inner: the propagator. Its owner should cache the features of its frames: its state is set
            up anew wherever a run leaves the path of the run before.

    Attributes:
        predicted, recalled: how many predictions were computed, and how many were known.
    """

    def __init__(self, inner: Propagator) -> None:
        super().__init__()
        self.inner = inner
        self.forget()
        self.reset((0, 0))

    def forget(self) -> None:
        """Drop all predictions: another video begins."""
        self._known: dict[tuple, Propagation] = {}
        self.predicted = self.recalled = 0

    def reset(self, size: tuple[int, int]) -> None:
        self.size = tuple(size)
        self._references: list[_Committed] = []
        self._previous: _Committed | None = None
        self._frame: Frame | None = None
        self._inner_state: tuple | None = None  # the state that the inner propagator is in

    def _state(self) -> tuple:
        """What the next prediction depends on, apart from its frame."""
        return (*(r.key for r in self._references), self._previous and self._previous.key)

    def predict(self, frame: Frame) -> Propagation:
        self._frame = frame
        state = self._state()
        key = (frame.index, state)
        if key in self._known:
            self.recalled += 1
            return self._known[key]
        if self._inner_state != state:
            self._set_up(state)
        self.predicted += 1
        self._known[key] = self.inner.predict(frame)
        return self._known[key]

    def _set_up(self, state: tuple) -> None:
        """Bring the inner propagator to the present state."""
        self.inner.reset(self.size)
        for step in self._references:
            self.inner.commit(step.label_map, step.new_ids, frame=step.frame, reference=True)
        if self._previous is not None and self._previous not in self._references[-1:]:
            self.inner.commit(self._previous.label_map, frame=self._previous.frame)
        self._inner_state = state

    def commit(
        self,
        label_map: torch.Tensor,
        new_ids: Sequence[int] = (),
        *,
        frame: Frame | None = None,
        reference: bool = False,
    ) -> None:
        frame = frame or self._frame
        follows = self._inner_state is not None and self._inner_state == self._state()
        content = label_map.to("cpu", torch.int32).numpy().tobytes()
        step = _Committed(frame, label_map, tuple(new_ids), (frame.index, content, tuple(new_ids)))
        self._previous = step
        if new_ids or reference:
            self._references.append(step)
        if follows:
            self.inner.commit(label_map, new_ids, frame=frame, reference=reference)
            self._inner_state = self._state()
