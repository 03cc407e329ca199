"""Workers: small, in order, gone when the command is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from vis_metrics import ResultFileError, evaluate_davis_maps
from vis_metrics.video_pool import map_videos


def square(n: int) -> tuple[int, int, list[str]]:
    heavy = [name for name in ("torch", "detectron2", "pytest") if name in sys.modules]
    return n * n, os.getpid(), heavy


def fail(n: int) -> int:
    if n == 3:
        raise ResultFileError("video 3: broken")
    return n


def bug(n: int) -> int:
    return [][n]


def noise(n: int) -> int:
    print("a library prints this")
    os.write(1, b"and this")
    return n


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Let workers import this file under the name that pytest gave it."""
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    monkeypatch.setitem(sys.modules, "test_video_pool", sys.modules[__name__])
    for function in (square, fail, bug, noise, wait):
        monkeypatch.setattr(function, "__module__", "test_video_pool")


def wait(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_are_in_order(workers):
    done = map_videos(square, range(20), num_workers=workers, sizes=list(range(20)))
    assert [value for value, _, _ in done] == [n * n for n in range(20)]
    for _, process, heavy in done:
        assert process == os.getpid() or not set(heavy) & {"torch", "detectron2"}


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_ends_the_work_as_itself(workers):
    with pytest.raises(ResultFileError, match="video 3: broken"):
        map_videos(fail, range(40), num_workers=workers)
    with pytest.raises((IndexError, RuntimeError), match="list index out of range"):
        map_videos(bug, range(4), num_workers=workers)


def test_what_workers_print_does_not_get_between_results():
    assert map_videos(noise, range(30), num_workers=2) == list(range(30))


def test_workers_are_started_where_there_is_work(monkeypatch):
    monkeypatch.setattr("vis_metrics.video_pool.cores", lambda: 2)
    processes = {p for _, p, _ in map_videos(square, range(4), sizes=[10] * 4)}
    assert processes == {os.getpid()}


def children(pid: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    fields = file.read().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(entry))
    return found


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks at /proc")
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_the_command(kind):
    code = (
        f"import signal, sys; sys.path[:0] = [{os.path.dirname(__file__)!r}]\n"
        # A shell that runs the tests in the background has Ctrl-C ignored by all below it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from test_video_pool import wait\nfrom vis_metrics.video_pool import map_videos\n"
        "map_videos(wait, [300.0] * 4, num_workers=3)"
    )
    command = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while len(workers := children(command.pid)) < 2 and time.time() < deadline:
        time.sleep(0.05)
    assert len(workers) == 2
    time.sleep(0.5)  # let them begin
    command.send_signal(kind)
    assert command.wait(120) != 0
    while any(map(alive, workers)) and time.time() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, workers))


def test_arrays_in_memory_need_no_worker(monkeypatch):
    monkeypatch.setattr("vis_metrics.video_pool._Worker", None)
    assert evaluate_davis_maps({}, {}, protocol="semi")["per_object"] == {}
