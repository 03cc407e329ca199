"""Scalars, images and histograms of a running training, and the writers that store them."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from detectron2.utils.file_io import PathManager
from fvcore.common.history_buffer import HistoryBuffer

__all__ = [
    "CommonMetricPrinter",
    "EventStorage",
    "EventWriter",
    "JSONWriter",
    "TensorboardXWriter",
    "get_event_storage",
    "has_event_storage",
]

_ACTIVE: list[EventStorage] = []


def get_event_storage() -> EventStorage:
    """Return the innermost active storage; asserts outside a ``with EventStorage(...)`` block."""
    assert _ACTIVE, "get_event_storage() needs an active 'with EventStorage(...)' block"
    return _ACTIVE[-1]


def has_event_storage() -> bool:
    """Tell whether a storage is active."""
    return bool(_ACTIVE)


class EventStorage:
    """Histories of named scalars, and the images and histograms not written yet."""

    def __init__(self, start_iter: int = 0) -> None:
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._smoothing_hints: dict[str, bool] = {}
        self._latest: dict[str, tuple[float, int]] = {}
        self._iter = start_iter
        self._scope = ""
        self._images: list[tuple[str, torch.Tensor, int]] = []
        self._histograms: list[dict[str, Any]] = []

    def __enter__(self) -> EventStorage:
        _ACTIVE.append(self)
        return self

    def __exit__(self, *exc: object) -> None:
        assert _ACTIVE[-1] is self, "event storages must be left in the reverse order of entering"
        _ACTIVE.pop()

    @property
    def iter(self) -> int:
        """Iteration that new values are recorded under; the trainer sets it."""
        return self._iter

    @iter.setter
    def iter(self, value: int) -> None:
        self._iter = int(value)

    @property
    def iteration(self) -> int:
        """Same as ``iter``."""
        return self._iter

    def step(self) -> None:
        """Advance ``iter`` by one; for loops without a trainer."""
        self._iter += 1

    @contextlib.contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Prefix every name put inside the block with ``name/``."""
        previous = self._scope
        self._scope = name.rstrip("/") + "/"
        try:
            yield
        finally:
            self._scope = previous

    def put_scalar(
        self,
        name: str,
        value: float | torch.Tensor,
        smoothing_hint: bool = True,
        cur_iter: int | None = None,
    ) -> None:
        """Record ``value``; ``smoothing_hint`` says whether a display should smooth it.

        The hint of a name may not change later (AssertionError).
        """
        name = self._scope + name
        known = self._smoothing_hints.setdefault(name, smoothing_hint)
        assert known == smoothing_hint, f"scalar {name} was put with smoothing_hint={known} before"
        at = self._iter if cur_iter is None else cur_iter
        value = float(value)
        self._history[name].update(value, at)
        self._latest[name] = (value, at)

    def put_scalars(
        self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **values: float
    ) -> None:
        """Record several scalars: ``put_scalars(loss=1.0, accuracy=0.5)``."""
        for name, value in values.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_image(self, img_name: str, img_tensor: torch.Tensor) -> None:
        """Keep a (3, H, W) image, uint8 or float in [0, 1], for the next write."""
        self._images.append((img_name, img_tensor, self._iter))

    def put_histogram(self, hist_name: str, hist_tensor: torch.Tensor, bins: int = 1000) -> None:
        """Keep a histogram of all elements for the next write."""
        values = hist_tensor.detach().float().reshape(-1)
        low, high = values.min().item(), values.max().item()
        counts = torch.histc(values, bins=bins)
        edges = torch.linspace(low, high, steps=bins + 1)
        self._histograms.append(
            {
                "tag": hist_name,
                "min": low,
                "max": high,
                "num": values.numel(),
                "sum": values.sum().item(),
                "sum_squares": values.square().sum().item(),
                "bucket_limits": edges[1:].tolist(),
                "bucket_counts": counts.tolist(),
                "global_step": self._iter,
            }
        )

    def history(self, name: str) -> HistoryBuffer:
        """Return the history of one scalar; KeyError if it was never put."""
        if name not in self._history:
            raise KeyError(f"no scalar {name!r} was recorded")
        return self._history[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """Return all histories by name."""
        return self._history

    def latest(self) -> dict[str, tuple[float, int]]:
        """Return ``{name: (last value, its iteration)}``."""
        return self._latest

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """Like ``latest``, with the median of the last values where the hint asks for it."""
        return {
            name: (
                self._history[name].median(window_size) if self._smoothing_hints[name] else value,
                at,
            )
            for name, (value, at) in self._latest.items()
        }

    def smoothing_hints(self) -> dict[str, bool]:
        """Return ``{name: smoothing hint}``."""
        return self._smoothing_hints

    def clear_images(self) -> None:
        """Forget the images, after they were written."""
        self._images = []

    def clear_histograms(self) -> None:
        """Forget the histograms, after they were written."""
        self._histograms = []


class EventWriter:
    """Base class: reads the active storage in ``write``."""

    def write(self) -> None:
        """Store what is new in the active storage."""
        raise NotImplementedError

    def close(self) -> None:
        """Release files; nothing by default."""


class JSONWriter(EventWriter):
    """Append one JSON object per iteration, with the key ``iteration``, to a file."""

    def __init__(self, json_file: str, window_size: int = 20) -> None:
        self._file = PathManager.open(str(json_file), "a")
        self._window_size = window_size
        self._last_write = -1

    def write(self) -> None:
        rows: dict[int, dict[str, float]] = defaultdict(dict)
        newest = self._last_write
        storage = get_event_storage()
        for name, (value, at) in storage.latest_with_smoothing_hint(self._window_size).items():
            if at > self._last_write:
                rows[at][name] = float(value)
                newest = max(newest, at)
        self._last_write = newest
        for at in sorted(rows):
            line = {"iteration": at, **rows[at]}
            self._file.write(json.dumps(line, sort_keys=True) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorboardXWriter(EventWriter):
    """Write scalars, images and histograms as TensorBoard events; the file opens lazily."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs: Any) -> None:
        self._window_size = window_size
        self._arguments = {"log_dir": str(log_dir), **kwargs}
        self._last_write = -1

    @cached_property
    def _writer(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(**self._arguments)

    def write(self) -> None:
        storage = get_event_storage()
        newest = self._last_write
        for name, (value, at) in storage.latest_with_smoothing_hint(self._window_size).items():
            if at > self._last_write:
                self._writer.add_scalar(name, value, at)
                newest = max(newest, at)
        self._last_write = newest
        for name, image, at in storage._images:
            self._writer.add_image(name, image, at)
        storage.clear_images()
        for histogram in storage._histograms:
            self._writer.add_histogram_raw(**histogram)
        storage.clear_histograms()

    def close(self) -> None:
        if "_writer" in self.__dict__:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Log one line: time left, losses, speed, learning rate, peak GPU memory."""

    def __init__(self, max_iter: int | None = None, window_size: int = 20) -> None:
        self.logger = logging.getLogger("detectron2.utils.events")
        self._max_iter = max_iter
        self._window_size = window_size
        self._last_write: tuple[int, float] | None = None

    def _time_left(self, storage: EventStorage) -> str | None:
        if self._max_iter is None:
            return None
        left = self._max_iter - storage.iter - 1
        if "time" in storage.histories():
            seconds = storage.history("time").median(1000) * left
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
        else:
            now = (storage.iter, time.perf_counter())
            before, self._last_write = self._last_write, now
            if before is None or before[0] == now[0]:
                return None
            seconds = (now[1] - before[1]) / (now[0] - before[0]) * left
        return str(datetime.timedelta(seconds=int(seconds)))

    def write(self) -> None:
        storage = get_event_storage()
        if self._max_iter is not None and storage.iter >= self._max_iter:
            return  # after_train: the last iteration was printed already
        parts = []
        left = self._time_left(storage)
        if left is not None:
            parts.append(f"eta: {left}")
        parts.append(f"iter: {storage.iter}")
        histories = storage.histories()
        for name, history in histories.items():
            if "loss" in name:
                parts.append(f"{name}: {history.median(self._window_size):.4g}")
        for name in ("time", "data_time"):
            if name in histories:
                history = histories[name]
                parts.append(f"{name}: {history.avg(self._window_size):.4f}")
                parts.append(f"last_{name}: {history.latest():.4f}")
        if "lr" in histories:
            parts.append(f"lr: {histories['lr'].latest():.5g}")
        if torch.cuda.is_available():
            parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        self.logger.info("  ".join(parts))
