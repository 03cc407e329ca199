"""Named stages of a step, timed only while somebody measures."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch

_ACTIVE: ContextVar[StageTimer | None] = ContextVar("stage_timer", default=None)


class StageTimer:
    """Collects seconds per stage; on CUDA with events, so that timing adds no synchronisation."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.cuda = torch.device(device).type == "cuda"
        self._spans: dict[str, list[Any]] = defaultdict(list)

    @contextmanager
    def active(self) -> Iterator[StageTimer]:
        token = _ACTIVE.set(self)
        try:
            yield self
        finally:
            _ACTIVE.reset(token)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        if self.cuda:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            yield
            end.record()
            self._spans[name].append((begin, end))
        else:
            begin_s = time.perf_counter()
            yield
            self._spans[name].append(time.perf_counter() - begin_s)

    def seconds(self) -> dict[str, float]:
        """Total seconds per stage so far (synchronises once on CUDA)."""
        if self.cuda:
            torch.cuda.synchronize()
            return {
                name: sum(begin.elapsed_time(end) for begin, end in spans) / 1000
                for name, spans in self._spans.items()
            }
        return {name: sum(spans) for name, spans in self._spans.items()}


def stage(name: str) -> Any:
    """Mark a stage of a step: ``with stage("backbone"): ...``; free unless a timer is active."""
    timer = _ACTIVE.get()
    return nullcontext() if timer is None else timer.span(name)
