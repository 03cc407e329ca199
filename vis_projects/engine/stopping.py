"""Stopping a training with Ctrl-C or SIGTERM without losing an iteration."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from ..structures.errors import Terminated


class StopHook(HookBase):
    """Ends the training after the running iteration, with a checkpoint, when a signal asks for it.

    The first SIGINT or SIGTERM lets the iteration end, saves and stops; during an evaluation it
    stops at once, and so does a second signal. Of several processes one that is asked stops all.
    Register it after the checkpoint hook and before the evaluation.

    Args:
        save: writes a checkpoint of the iteration that has just ended and returns its name.
    """

    def __init__(self, save: Callable[[], str]) -> None:
        self.save = save
        self.asked: int | None = None
        self.in_step = False
        self._owner = os.getpid()
        self._before: dict[int, Any] = {}

    def before_train(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)

    def after_train(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()

    def _handle(self, number: int, frame: object) -> None:
        if os.getpid() != self._owner:  # a forked worker of the data loader
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        again, self.asked = self.asked is not None, number
        if again or not self.in_step:
            raise self._stopped("")

    def _stopped(self, tail: str) -> KeyboardInterrupt:
        name = signal.Signals(self.asked or signal.SIGINT).name
        kind = Terminated if self.asked == signal.SIGTERM else KeyboardInterrupt
        return kind(f"{name}{tail}")

    def before_step(self) -> None:
        self.in_step = True

    def after_step(self) -> None:
        self.in_step = False
        if any(comm.all_gather(self.asked is not None)):
            raise self._stopped(f"; {self.save()} is written: --resume continues")
