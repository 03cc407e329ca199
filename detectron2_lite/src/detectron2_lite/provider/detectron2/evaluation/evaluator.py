"""What an evaluator is, and running a model over a data set for one."""

from __future__ import annotations

import datetime
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from detectron2.utils.comm import get_world_size, is_main_process
from detectron2.utils.logger import log_every_n_seconds
from torch import nn

_WARM_UP = 5  # batches that do not count for the timing


class DatasetEvaluator:
    """Collects what the model says about a data set and turns it into metrics."""

    def reset(self) -> None:
        """Forget everything; called before a run over the data set."""

    def process(self, inputs: list[dict], outputs: Any) -> None:
        """Take one batch: the model's inputs and what it returned for them."""

    def evaluate(self) -> dict | None:
        """Return ``{"task": {"metric": float}}``, or None (on ranks other than 0, for example)."""


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one; their results must have different keys (AssertionError)."""

    def __init__(self, evaluators: list[DatasetEvaluator]) -> None:
        super().__init__()
        self._evaluators = evaluators

    def reset(self) -> None:
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: list[dict], outputs: Any) -> None:
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> dict:
        results: OrderedDict = OrderedDict()
        for evaluator in self._evaluators:
            result = evaluator.evaluate()
            if is_main_process() and result is not None:
                for key, value in result.items():
                    assert key not in results, f"two evaluators give results called '{key}'"
                    results[key] = value
        return results


def inference_on_dataset(
    model: Callable,
    data_loader,
    evaluator: DatasetEvaluator | list[DatasetEvaluator] | None,
    callbacks: dict[str, Callable[[], None]] | None = None,
) -> dict:
    """Run the model in eval mode over the loader (which needs a length) and evaluate.

    ``callbacks`` may hold ``on_start``, ``before_inference``, ``after_inference`` and ``on_end``.
    Returns the evaluator's result, {} if that is None.
    """
    logger = logging.getLogger(__name__)
    total = len(data_loader)
    logger.info("Start inference on %d batches", total)
    if evaluator is None:
        evaluator = DatasetEvaluators([])
    elif isinstance(evaluator, list | tuple):
        evaluator = DatasetEvaluators(list(evaluator))
    evaluator.reset()

    timing = _Timing(total)
    with ExitStack() as stack:
        if isinstance(model, nn.Module):
            stack.enter_context(inference_context(model))
        stack.enter_context(torch.no_grad())
        _call(callbacks, "on_start")
        before = time.perf_counter()
        for index, inputs in enumerate(data_loader):
            loaded = time.perf_counter()
            _call(callbacks, "before_inference")
            outputs = model(inputs)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            _call(callbacks, "after_inference")
            computed = time.perf_counter()
            evaluator.process(inputs, outputs)
            done = time.perf_counter()
            timing.add(index, (loaded - before, computed - loaded, done - computed))
            before = done
        _call(callbacks, "on_end")
    timing.report(logger)
    results = evaluator.evaluate()
    return {} if results is None else results


def _call(callbacks: dict[str, Callable[[], None]] | None, name: str) -> None:
    if callbacks and name in callbacks:
        callbacks[name]()


class _Timing:
    """Seconds spent on loading, computing and evaluating, logged now and then."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.warm_up = min(_WARM_UP, max(total - 1, 0))
        self.count = 0
        self.seconds = [0.0, 0.0, 0.0]

    def add(self, index: int, seconds: tuple[float, float, float]) -> None:
        if index < self.warm_up:
            return
        self.count += 1
        self.seconds = [a + b for a, b in zip(self.seconds, seconds)]
        data, compute, evaluate = (s / self.count for s in self.seconds)
        each = data + compute + evaluate
        if index >= 2 * self.warm_up or compute > 5:
            left = datetime.timedelta(seconds=int(each * (self.total - index - 1)))
            log_every_n_seconds(
                logging.INFO,
                f"Inference done {index + 1}/{self.total}. Dataloading: {data:.4f} s/iter. "
                f"Inference: {compute:.4f} s/iter. Eval: {evaluate:.4f} s/iter. "
                f"Total: {each:.4f} s/iter. ETA={left}",
                n=5,
                name=__name__,
            )

    def report(self, logger: logging.Logger) -> None:
        if self.count == 0:
            return
        total, compute = sum(self.seconds), self.seconds[1]
        for name, seconds in (("Total inference time", total), ("Pure compute time", compute)):
            logger.info(
                "%s: %s (%.6f s / iter per device, on %d devices)",
                name,
                datetime.timedelta(seconds=int(seconds)),
                seconds / self.count,
                get_world_size(),
            )


@contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """Put the model into eval mode, and back into its former mode afterwards.

    ``model.train(flag)`` is recursive, so a submodule kept in eval mode must guard itself.
    """
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
