"""The best weights by a named score, and an end when it rises no more."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from ..structures import InputError
from .checkpointer import write_atomically

logger = logging.getLogger(__name__)


class EarlyStop(Exception):
    """The training ends here, and all is well."""


class BestHook(HookBase):
    """After each evaluation save ``model_best`` if the score is the best so far.

    Register it after the EvalHook and before the writers. The best score is kept in ``best.json``,
    so that a resumed run goes on with it.

    Args:
        folder: OUTPUT_DIR.
        metric: as the log names it: ``AP``, ``J&F``; with several test sets or tasks the last one
            of that name counts. Higher is better.
        patience: end after this many evaluations without a better score; 0 never.
        period: iterations between evaluations (``TEST.EVAL_PERIOD``).
        save: writes the evaluated weights under a name.
        results: gives the last evaluation's results.

    Raises:
        InputError: patience without evaluations on the way.
    """

    def __init__(
        self,
        folder: str | Path,
        metric: str,
        *,
        patience: int,
        period: int,
        save: Callable[[str], None],
        results: Callable[[], Mapping[str, Any] | None],
    ) -> None:
        if period <= 0:
            raise InputError(
                "SOLVER.BEST_METRIC needs evaluations on the way: set TEST.EVAL_PERIOD"
            )
        self.file = Path(folder) / "best.json"
        self.metric, self.patience, self.period = metric, patience, period
        self.save, self.results = save, results
        self.best, self.iteration, self.without = -math.inf, -1, 0

    def before_train(self) -> None:
        if self.trainer.start_iter > 0 and self.file.is_file():
            kept = json.loads(self.file.read_text())
            if kept.get("metric") == self.metric and kept["iteration"] < self.trainer.start_iter:
                self.best, self.iteration = kept["score"], kept["iteration"]
                self.without = kept["without"]

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self.period == 0 and done != self.trainer.max_iter and self._look():
            raise EarlyStop

    def after_train(self) -> None:
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._look()

    def _look(self) -> bool:
        """Compare the newest score; True if the training has to end."""
        score = find_score(self.results() or {}, self.metric)
        end = False
        if comm.is_main_process():
            if score is None:
                names = ", ".join(sorted(_names(self.results() or {}))) or "none"
                raise InputError(
                    f"SOLVER.BEST_METRIC {self.metric}: no such score; there are {names}"
                )
            self._note(score)
            end = 0 < self.patience <= self.without
            if end:
                logger.info(
                    "%s has not risen above %.2f (iteration %d) for %d evaluations: the end",
                    *(self.metric, self.best, self.iteration, self.without),
                )
        return any(comm.all_gather(end))

    def _note(self, score: float) -> None:
        if math.isfinite(score) and score > self.best:
            here = min(
                self.trainer.iter, self.trainer.max_iter - 1
            )  # after the last step it is past it
            self.best, self.iteration, self.without = score, here, 0
            self.save("model_best")
            logger.info("Best %s so far, %.2f: model_best.pth", self.metric, score)
        else:
            self.without += 1
        content = {
            "metric": self.metric,
            "score": self.best if math.isfinite(self.best) else None,
            "iteration": self.iteration,
            "without": self.without,
        }
        text = json.dumps(content)
        write_atomically(self.file, lambda file: file.write(text.encode()))


def find_score(results: Mapping[str, Any], metric: str) -> float | None:
    """Return the score of that name, wherever it stands in nested results."""
    found = None
    for name, value in results.items():
        if isinstance(value, Mapping):
            inner = find_score(value, metric)
            found = inner if inner is not None else found
        elif name == metric:
            found = float(value)
    return found


def _names(results: Mapping[str, Any]) -> set[str]:
    names: set[str] = set()
    for name, value in results.items():
        names |= _names(value) if isinstance(value, Mapping) else {name}
    return {name for name in names if "-" not in name}
