"""Running one function over many videos, in this process and in small ones beside it; progress.

A worker is a fresh interpreter that imports the function's module and nothing else: not a copy of
this process, which may hold PyTorch and gigabytes, nor of its ``__main__``. Jobs and results
travel through its pipes; when the pipes close, it ends, so that none outlives the command.
"""

from __future__ import annotations

import os
import pickle
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO, TypeVar

from .errors import InputError

Job = TypeVar("Job")
Result = TypeVar("Result")
Item = TypeVar("Item")

PACKAGE = Path(__file__).parent
WORK_OF_A_WORKER = 150  # frames that are worth the start of a process
START = "import sys; sys.path[:] = {path!r}; from vis_metrics.video_pool import serve; serve()"


def map_videos(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    num_workers: int | None = None,
    sizes: Sequence[int] | None = None,
    description: str = "J and F",
    unit: str = "video",
    progress: bool = False,
) -> list[Result]:
    """Return ``function(job)`` of every job, in order; the first exception ends the work.

    Args:
        function: of a module, not a closure; jobs and results must be picklable.
        num_workers: processes that share the jobs, this one included; 0 and 1 are this one alone.
            None takes the cores, as far as there is work for them.
        sizes: frames of each job; long ones are begun first.
    """
    if num_workers is None:
        num_workers = min(cores(), max(sum(sizes or ()) // WORK_OF_A_WORKER, 1))
    order = sorted(range(len(jobs)), key=lambda i: -sizes[i] if sizes else i)
    work = _Work(function, jobs, order)
    bar = progress_bar(len(jobs), description, unit, shown=progress)
    with bar as advance, _one_thread():
        workers = [_Worker(work) for _ in range(min(num_workers, len(jobs)) - 1)]
        try:
            for worker in workers:
                worker.start()
            while (index := work.take()) is not None:
                work.put(index, function(jobs[index]))
                advance(work.fresh())
            for worker in workers:
                while worker.is_alive():
                    worker.join(0.1)
                    advance(work.fresh())
            advance(work.fresh())
        finally:
            for worker in workers:
                worker.stop()
    if work.error is not None:
        raise work.error
    return [work.results[i] for i in range(len(jobs))]


def cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


class _Work:
    """The jobs that are left, and the results so far."""

    def __init__(self, function: Callable[..., Any], jobs: Sequence[Any], order: list[int]) -> None:
        self.function, self.jobs = function, jobs
        self.results: dict[int, Any] = {}
        self.error: BaseException | None = None
        self._left = order[::-1]
        self._told = 0
        self._lock = threading.Lock()

    def take(self) -> int | None:
        with self._lock:
            return self._left.pop() if self._left and self.error is None else None

    def put(self, index: int, result: Any) -> None:
        self.results[index] = result

    def fail(self, error: BaseException) -> None:
        self.error = self.error or error

    def fresh(self) -> int:
        """Return how many results came since the last call."""
        count, self._told = len(self.results) - self._told, len(self.results)
        return count


class _Worker(threading.Thread):
    """Feeds one process."""

    def __init__(self, work: _Work) -> None:
        import subprocess

        super().__init__(daemon=True)
        self.work = work
        path = [str(PACKAGE.parent), *map(os.path.abspath, sys.path)]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", START.format(path=path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **threads},
        )

    def run(self) -> None:
        process, work = self.process, self.work
        try:
            while (index := work.take()) is not None:
                send(process.stdin, (work.function, work.jobs[index]))
                good, value = receive(process.stdout)
                if good:
                    work.put(index, value)
                else:
                    work.fail(value)
        except (OSError, EOFError):
            code = process.poll()
            work.fail(RuntimeError(f"a worker process ended by itself (code {code})"))

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self.is_alive():
            self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                pipe.close()
        self.process.wait()


def send(stream: BinaryIO, message: Any) -> None:
    """Write one message."""
    content = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(struct.pack(">Q", len(content)) + content)
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """Read one message; raises EOFError when the other side is gone."""
    header = stream.read(8)
    if len(header) < 8:
        raise EOFError
    content = stream.read(struct.unpack(">Q", header)[0])
    return pickle.loads(content)


def serve() -> None:
    """Do jobs until the pipe closes: the main function of a worker."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends this
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the results
    jobs: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    with _one_thread():
        while True:
            function, job = jobs.get()
            try:
                answer = (True, function(job))
            except InputError as error:
                answer = (False, error)
            except Exception:
                answer = (False, RuntimeError(f"in a worker process:\n{traceback.format_exc()}"))
            send(results, answer)


def _listen(jobs: SimpleQueue[Any]) -> None:
    """Take jobs from the pipe; end the process, whatever it does, when the parent is gone."""
    with suppress(EOFError, OSError):
        while True:
            jobs.put(receive(sys.stdin.buffer))
    os._exit(0)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let OpenCV use one thread: the processes share the cores already."""
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


# Progress, whose library is loaded only where a bar is shown --------------------------------------


def watched(items: Collection[Item], description: str, unit: str, *, shown: bool) -> Iterator[Item]:
    """Yield the items, with a bar if it is ``shown``."""
    with progress_bar(len(items), description, unit, shown=shown) as advance:
        for item in items:
            yield item
            advance(1)


@contextmanager
def progress_bar(
    total: int, description: str, unit: str, *, shown: bool
) -> Iterator[Callable[[int], object]]:
    """Yield a function that advances a bar."""
    if not shown:
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=description, unit=unit) as bar:
        yield bar.update
