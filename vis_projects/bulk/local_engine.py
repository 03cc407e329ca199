"""Workers on this machine: a process per GPU, or per group of cores."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from ..structures import InputError
from ..structures.errors import one_line
from .inputs import VideoJob
from .manifest import FAILED
from .worker import Report, Settings, Worker

ATTEMPTS = 2  # of a video whose worker died
# For workers, before they import anything: a bar per video of every worker would be a mess.
QUIET = {"TQDM_DISABLE": "1"}


@dataclass
class _Process:
    process: Any
    link: Connection
    place: tuple[str, tuple[int, ...]]  # device, cores
    ready: bool = False
    job: VideoJob | None = None


@dataclass
class LocalEngine:
    """Runs jobs on processes of this machine.

    Args:
        settings: of every worker.
        devices: one worker each, e.g. ("cuda:0", "cuda:1") or ("cpu", "cpu").
        pin: bind each worker on the CPU to cores of its own, where the system can.
    """

    settings: Settings
    devices: tuple[str, ...] = ("cpu",)
    pin: bool = True
    _workers: list[_Process] = field(default_factory=list)

    def run(
        self,
        jobs: Iterable[VideoJob],
        on_start: Callable[[VideoJob], None],
        on_report: Callable[[Report], None],
    ) -> None:
        """Do all jobs.

        Raises:
            InputError: the network cannot be built; no video was touched then.
        """
        waiting, attempts = deque(jobs), {}
        places = self._places()[: max(1, min(len(self.devices), len(waiting)))]
        try:
            for place in places:
                self._workers.append(self._start(place))
            while waiting or any(w.job for w in self._workers):
                for worker in self._workers:
                    if worker.ready and worker.job is None and waiting:
                        worker.job = waiting.popleft()
                        on_start(worker.job)
                        with suppress(BrokenPipeError):
                            worker.link.send(worker.job)
                for worker in self._next():
                    self._hear(worker, waiting, attempts, on_report)
        finally:
            self._stop()

    def _next(self) -> list[_Process]:
        """Workers that have something to say, or died."""
        things = {w.link: w for w in self._workers} | {w.process.sentinel: w for w in self._workers}
        return list({id(w): w for w in (things[t] for t in wait(list(things)))}.values())

    def _hear(
        self,
        worker: _Process,
        waiting: deque[VideoJob],
        attempts: dict[str, int],
        on_report: Callable[[Report], None],
    ) -> None:
        try:
            kind, said = worker.link.recv() if worker.link.poll() else ("died", None)
        except (EOFError, OSError):
            kind, said = "died", None
        if kind == "ready":
            worker.ready = True
        elif kind == "broken":
            raise InputError(said)
        elif kind == "report":
            worker.job = None
            on_report(said)
        else:
            self._replace(worker, waiting, attempts, on_report)

    def _replace(
        self,
        worker: _Process,
        waiting: deque[VideoJob],
        attempts: dict[str, int],
        on_report: Callable[[Report], None],
    ) -> None:
        """A worker died: another takes its place, and its video is tried once more."""
        worker.process.join()
        code = worker.process.exitcode
        why = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        if not worker.ready:
            raise InputError(f"a worker ended before it was ready ({why}): is there memory for it?")
        job, worker.job = worker.job, None
        self._workers[self._workers.index(worker)] = self._start(worker.place)
        if job is None:
            return
        attempts[job.name] = attempts.get(job.name, 0) + 1
        if attempts[job.name] < ATTEMPTS:
            waiting.appendleft(job)
        else:
            on_report(Report(job.name, FAILED, error=f"its worker died twice ({why})"))

    def _places(self) -> list[tuple[str, tuple[int, ...]]]:
        """Device and cores of every worker; no cores where they are not bound."""
        count = len(self.devices)
        if not self.pin or count < 2 or not hasattr(os, "sched_getaffinity"):
            return [(device, ()) for device in self.devices]
        cores = sorted(os.sched_getaffinity(0))
        share = len(cores) // count
        if share == 0:
            return [(device, ()) for device in self.devices]
        return [
            (device, tuple(cores[i * share : (i + 1) * share]))
            for i, device in enumerate(self.devices)
        ]

    def _start(self, place: tuple[str, tuple[int, ...]]) -> _Process:
        context = mp.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.settings, place), daemon=True)
        with _environment(QUIET):
            process.start()
        theirs.close()
        return _Process(process, ours, place)

    def _stop(self) -> None:
        for worker in self._workers:
            if worker.job is not None:
                worker.process.terminate()
            with suppress(BrokenPipeError, OSError):
                worker.link.send(None)
        for worker in self._workers:
            worker.process.join(timeout=10)
            if worker.process.is_alive():
                worker.process.kill()
            worker.link.close()
        self._workers.clear()


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _serve(link: Connection, settings: Settings, place: tuple[str, tuple[int, ...]]) -> None:
    """The process of a worker: ends when it is told to, or when the driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's business
    threading.Thread(target=_end_with_driver, daemon=True).start()
    device, cores = place
    if cores:
        os.sched_setaffinity(0, cores)
    try:
        worker = Worker(settings, device=device)
    except Exception as error:
        line = one_line(error)
        if line is None:
            raise
        link.send(("broken", line))
        return
    link.send(("ready", None))
    with suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        while (job := link.recv()) is not None:
            report = worker.run(job)
            if not report.state:
                return
            link.send(("report", report))


def _end_with_driver() -> None:
    wait([mp.parent_process().sentinel])
    os._exit(1)
