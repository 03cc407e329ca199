"""Workers on a Ray cluster: actors that load the network once, one video at a time each.

Ray Core and not Ray Data: the results are files beside the inputs and no blocks of rows, the state
is a network that lives long, and what counts is that exactly the video whose worker died is done
again. An actor gets its next video when it has delivered the last (back-pressure); one that dies
with its node is replaced where there is room, and its video goes to another. The folders of inputs
and outputs have to be the same on all nodes, or the output a URL that fsspec writes to.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from ..structures import InputError
from ..structures.errors import one_line
from .inputs import VideoJob
from .manifest import FAILED
from .worker import Report, Settings, Worker

ATTEMPTS = 4  # of a video whose worker died
PATIENCE = 1800.0  # seconds until the first worker has to be ready


@dataclass
class _Actor:
    handle: Any
    ready: bool = False
    job: VideoJob | None = None


@dataclass
class RayEngine:
    """Runs jobs on actors of a Ray cluster: that of ``RAY_ADDRESS``, or a local one.

    Args:
        settings: of every worker.
        workers: actors; by default one per GPU of the cluster, or one per ``settings.threads``
            cores where there is none.
        device: of the workers; "cpu" leaves GPUs alone.
    """

    settings: Settings
    workers: int | None = None
    device: str = ""
    _waiting: deque[VideoJob] = field(default_factory=deque)
    _calls: dict[Any, _Actor] = field(default_factory=dict)
    _attempts: dict[str, int] = field(default_factory=dict)
    _failed_starts: int = 0

    def run(
        self,
        jobs: Iterable[VideoJob],
        on_start: Callable[[VideoJob], None],
        on_report: Callable[[Report], None],
    ) -> None:
        """Do all jobs.

        Raises:
            InputError: Ray is not installed, the network cannot be built, or no node has room.
        """
        ray = _connected()
        self.settings = replace(self.settings, folder=os.getcwd())
        self._waiting = deque(jobs)
        make = self._actor_class(ray)
        count = min(self._count(ray), len(self._waiting))
        try:
            for _ in range(count):
                self._start(make)
            heard = time.monotonic()
            while self._waiting or any(a.job for a in self._calls.values()):
                ended, _ = ray.wait(list(self._calls), num_returns=1, timeout=10)
                if not ended:
                    if time.monotonic() - heard > PATIENCE and not any(
                        a.ready for a in self._calls.values()
                    ):
                        raise InputError(
                            f"no worker of the Ray cluster was ready within {PATIENCE:.0f} s: has "
                            "a node room for one?"
                        )
                    continue
                heard = time.monotonic()
                actor = self._calls.pop(ended[0])
                if self._hear(ray, ended[0], actor, on_report):
                    self._give(actor, on_start)
                else:
                    self._start(make)
        finally:
            for actor in self._calls.values():
                ray.kill(actor.handle)
            self._calls.clear()

    def _hear(
        self, ray: Any, call: Any, actor: _Actor, on_report: Callable[[Report], None]
    ) -> bool:
        """Take what an actor delivered; False if it is lost."""
        try:
            said = ray.get(call)
        except ray.exceptions.RayError as error:
            self._lost(actor, error, on_report)
            return False
        actor.ready, self._failed_starts = True, 0
        job, actor.job = actor.job, None
        if job is not None and said.state:
            on_report(said)
        elif job is not None:
            self._waiting.appendleft(job)
        return True

    def _lost(self, actor: _Actor, error: Exception, on_report: Callable[[Report], None]) -> None:
        line = one_line(error)
        if not actor.ready:
            self._failed_starts += 1
            if line is not None or self._failed_starts >= ATTEMPTS:
                text = line or f"Ray workers cannot start: {' '.join(str(error).split())[:300]}"
                raise InputError(text) from error
            return
        job, actor.job = actor.job, None
        if job is None:
            return
        self._attempts[job.name] = self._attempts.get(job.name, 0) + 1
        if self._attempts[job.name] < ATTEMPTS:
            self._waiting.appendleft(job)
        else:
            on_report(Report(job.name, FAILED, error=f"its worker died {ATTEMPTS} times"))

    def _give(self, actor: _Actor, on_start: Callable[[VideoJob], None]) -> None:
        """Hand the next video to an actor that is free; one without a video ends."""
        if not self._waiting:
            actor.handle.end.remote()
            return
        actor.job = self._waiting.popleft()
        on_start(actor.job)
        self._calls[actor.handle.run.remote(actor.job)] = actor

    def _start(self, make: Callable[[], Any]) -> None:
        actor = _Actor(make())
        self._calls[actor.handle.ready.remote()] = actor

    def _count(self, ray: Any) -> int:
        if self.workers:
            return self.workers
        there = ray.cluster_resources()
        if there.get("GPU", 0) >= 1 and self.device in ("", "auto", "cuda"):
            return int(there["GPU"])
        return max(1, int(there.get("CPU", 1)) // max(1, self.settings.threads))

    def _actor_class(self, ray: Any) -> Callable[[], Any]:
        gpu = ray.cluster_resources().get("GPU", 0) >= 1 and self.device in ("", "auto", "cuda")
        threads = max(1, self.settings.threads)
        variables = {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": str(threads)}
        kind = ray.remote(_RayWorker).options(
            num_cpus=1 if gpu else threads,
            num_gpus=1 if gpu else 0,
            max_restarts=0,  # the engine starts another and moves the video
            runtime_env={"env_vars": variables},
        )
        device = "cuda" if gpu else self.device or "cpu"
        return lambda: kind.remote(self.settings, device)


class _RayWorker:
    """A worker as an actor."""

    def __init__(self, settings: Settings, device: str) -> None:
        self.worker = Worker(settings, device=device)

    def ready(self) -> bool:
        return True

    def run(self, job: VideoJob) -> Report:
        return self.worker.run(job)

    def end(self) -> None:
        import ray

        ray.actor.exit_actor()


def _connected() -> Any:
    """Return Ray, connected to a cluster.

    Raises:
        InputError: it is not installed, or the cluster does not answer.
    """
    try:
        import ray
    except ImportError:
        raise InputError("--engine ray needs Ray: pip install 'vis-projects[ray]'") from None
    if not ray.is_initialized():
        try:
            ray.init(log_to_driver=False, logging_level="ERROR", include_dashboard=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"the Ray cluster cannot be reached ({reason})") from None
    return ray
