"""The random states of all processes, as plain data that a checkpoint can hold."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm

logger = logging.getLogger(__name__)


def get_random_state() -> dict[str, Any]:
    """Return the states of Python, numpy, torch and every CUDA device of this process."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (str(kind), torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore what ``get_random_state`` returned."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])


@contextmanager
def kept_random_state() -> Iterator[None]:
    """What happens inside leaves the random states as they were."""
    state = get_random_state()
    try:
        yield
    finally:
        set_random_state(state)


@contextmanager
def deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """Sums have a fixed order inside, so that threads do not change the last bits.

    Without it the gradient of indexing differs from run to run on several CPU threads.
    """
    before = torch.are_deterministic_algorithms_enabled()
    only_warn = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    if enabled:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # slow, and of no use here
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warn)
        torch.utils.deterministic.fill_uninitialized_memory = fill


class RandomStates:
    """Every rank's random state for a checkpoint that only rank 0 writes."""

    def __init__(self) -> None:
        self._states: list[dict[str, Any]] = []

    def capture(self) -> None:
        """Collect the states on rank 0; every rank must call it."""
        self._states = comm.gather(get_random_state())

    def state_dict(self) -> dict[str, Any]:
        return {"ranks": self._states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        ranks = state["ranks"]
        if len(ranks) != comm.get_world_size():
            logger.warning(
                "the checkpoint was written by %d processes, now there are %d: the random numbers "
                "inside the model will differ from those of an uninterrupted run",
                len(ranks),
                comm.get_world_size(),
            )
            return
        set_random_state(ranks[comm.get_rank()])
