"""Hooks beyond Detectron2's: checkpoints of all state, the averaged model, times, curves."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.utils import comm

from .checkpointer import VideoCheckpointer, save_weights, write_atomically
from .curves import plot_curves
from .model_average import ModelAverage
from .random_state import RandomStates

logger = logging.getLogger(__name__)


class AverageHook(HookBase):
    """Update a ModelAverage after each step."""

    def __init__(self, average: ModelAverage) -> None:
        self.average = average

    def after_step(self) -> None:
        self.average.update()


class CheckpointHook(HookBase):
    """Save ``model_{iteration:07d}`` every ``period`` iterations and ``model_final`` at the end.

    Unlike Detectron2's hook it runs on every rank, because all of them have a random state.

    Args:
        keep: periodic checkpoints to keep, the newest; 0 keeps all.
    """

    def __init__(
        self,
        checkpointer: VideoCheckpointer,
        random_states: RandomStates,
        *,
        period: int,
        keep: int = 0,
        average: ModelAverage | None = None,
    ) -> None:
        self.checkpointer, self.random_states = checkpointer, random_states
        self.period, self.keep, self.average = period, keep, average
        self.saved = -1  # the iteration of the last checkpoint

    def after_step(self) -> None:
        iteration, final = self.trainer.iter, self.trainer.iter + 1 >= self.trainer.max_iter
        periodic = self.period > 0 and (iteration + 1) % self.period == 0
        if periodic or final:
            self.save()

    def save(self) -> str:
        """Write a checkpoint of the iteration that has just ended, once; return its file's name."""
        iteration, final = self.trainer.iter, self.trainer.iter + 1 >= self.trainer.max_iter
        name = "model_final" if final else f"model_{iteration:07d}"
        if self.saved == iteration:
            return f"{name}.pth"
        self.random_states.capture()
        self.checkpointer.save(name, iteration=iteration)
        self.saved = iteration
        if comm.is_main_process():
            self._tidy(final)
        return f"{name}.pth"

    def _tidy(self, final: bool) -> None:
        """Write the averaged weights at the end, and keep only the newest checkpoints."""
        folder = Path(self.checkpointer.save_dir)
        if final and self.average is not None:
            file = folder / "model_ema.pth"
            save_weights(self.average.model_state(), file, self.checkpointer.card)
            logger.info("%s: the averaged weights; scores and overlay are theirs", file)
        if self.keep > 0:
            for old in sorted(folder.glob("model_[0-9]*.pth"))[: -self.keep]:
                old.unlink(missing_ok=True)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return the rows of a metrics.json; a last line that was cut off is left out."""
    rows = []
    if path.is_file():
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                logger.warning("%s: a line is cut off and left out", path)
    return rows


def drop_metrics_from(path: Path, iteration: int) -> None:
    """Cut off the rows from ``iteration`` on: a resumed run writes them again.

    The file is shortened in place, because a writer may hold it open. A new run keeps the rows of
    an old one in ``metrics.previous.json``.
    """
    if not path.is_file():
        return
    data = path.read_bytes()
    if iteration == 0 and data:
        write_atomically(path.with_name("metrics.previous.json"), lambda file: file.write(data))
    size = 0
    for line in data.splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            break
        if row["iteration"] >= iteration or not line.endswith(b"\n"):
            break
        size += len(line)
    os.truncate(path, size)


class LoadingHook(HookBase):
    """Say at the end how much of a step was spent waiting for data."""

    def after_train(self) -> None:
        known = self.trainer.storage.histories()
        if not {"time", "data_time"} <= known.keys():
            return  # a few steps: no time was taken
        whole, waiting = (known[name].global_avg() for name in ("time", "data_time"))
        logger.info(
            "data loading: %.0f %% of a step (%.3f of %.3f s)%s",
            100 * waiting / max(whole, 1e-9),
            waiting,
            whole,
            "; DATALOADER.NUM_WORKERS N loads beside it" if waiting > 0.3 * whole else "",
        )


class CurvesHook(HookBase):
    """Draw ``curves.png`` from metrics.json at most every ``seconds``, and at the end.

    Register it after the PeriodicWriter.
    """

    def __init__(self, folder: str | Path, *, seconds: float = 60.0, period: int = 20) -> None:
        self.folder, self.seconds, self.period = Path(folder), seconds, period
        self._last = time.monotonic()

    def after_step(self) -> None:
        due = time.monotonic() - self._last >= self.seconds
        if due and (self.trainer.iter + 1) % self.period == 0:
            self._draw()

    def after_train(self) -> None:
        self._draw()

    def _draw(self) -> None:
        try:
            plot_curves(read_metrics(self.folder / "metrics.json"), self.folder / "curves.png")
        except Exception:  # a picture must not end a training
            logger.exception("curves.png could not be drawn")
        self._last = time.monotonic()
