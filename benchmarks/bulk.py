"""Many videos: what a second worker brings, what a video costs beyond its network, memory.

    python -m benchmarks bulk [--videos 200] [--weights W.pth] [--ray]

The videos are short clips of moving boxes, the network is the quickstart's; without weights it runs
as it is initialised. A worker is bound to one core. The overhead is what passes between two reports
beyond the seconds that the worker itself counts for reading, segmenting, drawing and writing.
These are clock times: run it on a quiet machine of at least two cores.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from vis_projects.bulk import LocalEngine, Settings, make_plan, run_plan
from vis_projects.engine.benchmark import moving_boxes
from vis_projects.video import VideoWriter

CONFIG = "configs/quickstart.yaml"
FRAMES, DIFFERENT = 8, 5


def write_videos(folder: Path, count: int) -> None:
    """Write short mp4s of 160 x 96 pixels."""
    folder.mkdir()
    for number in range(count):
        file = folder / f"v{number:04d}.mp4"
        if number >= DIFFERENT:
            shutil.copy(folder / f"v{number % DIFFERENT:04d}.mp4", file)
            continue
        images, _ = moving_boxes((96, 160), 2 + number, frames=FRAMES)
        with VideoWriter(file) as writer:
            for image in images:
                writer.add(image)


class Clock:
    """Notes when the first video began and each ended, and a worker's memory at that moment."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.begin = 0.0
        self.ends: list[float] = []
        self.inside: list[float] = []
        self.memory: list[float] = []

    def started(self, job: Any) -> None:
        self.begin = self.begin or time.perf_counter()

    def reported(self, report: Any) -> None:
        self.ends.append(time.perf_counter())
        self.inside.append(report.seconds)
        workers = getattr(self.engine, "_workers", [])
        self.memory.append(max((resident(w.process.pid) for w in workers), default=0.0))
        if report.error:
            raise RuntimeError(f"{report.name}: {report.error}")

    @property
    def wall(self) -> float:
        return self.ends[-1] - self.begin


class Timed:
    """An engine that tells a clock when it hands out a video."""

    def __init__(self, engine: Any, clock: Clock) -> None:
        self.engine, self.clock = engine, clock

    def run(self, jobs: Any, on_start: Any, on_report: Any) -> None:
        def started(job: Any) -> None:
            self.clock.started(job)
            on_start(job)

        self.engine.run(jobs, started, on_report)


def resident(pid: int) -> float:
    """Return the memory of a process in MB; 0 where the system does not say."""
    try:
        rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(r.split()[1]) / 1024 for r in rows if r.startswith("VmRSS")), 0.0)


def timed(settings: Settings, folder: Path, make_engine: Any) -> Clock:
    """Segment all videos of a folder and return the clock."""
    plan = make_plan([str(folder)], settings)
    engine = make_engine(plan.settings)
    clock = Clock(engine)
    run_plan(plan, Timed(engine, clock), clock.reported)
    return clock


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks bulk", description=__doc__)
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--weights", default="")
    parser.add_argument("--ray", action="store_true", help="measure Ray's overhead too")
    args = parser.parse_args(argv)
    cores = sorted(os.sched_getaffinity(0))
    opts = ("MODEL.DEVICE", "cpu", "MODEL.ALLOW_MISSING_WEIGHTS", "True")
    with tempfile.TemporaryDirectory() as root:
        videos = Path(root) / "videos"
        write_videos(videos, args.videos)

        def settings(name: str) -> Settings:
            return Settings(str(Path(root) / name), CONFIG, args.weights, opts, threads=1)

        def measured(name: str, count: int) -> Clock:
            os.sched_setaffinity(0, cores[:count])
            return timed(settings(name), videos, lambda s: LocalEngine(s, devices=("cpu",) * count))

        one = measured("one", 1)
        told("one worker, one core", one)
        kept = one.memory[min(20, len(one.memory) - 1)], one.memory[-1]
        print(
            f"memory of the worker: {kept[0]:.0f} MB after 20 videos, {kept[1]:.0f} MB at the end"
        )
        if len(cores) > 1:
            two = measured("two", 2)
            told("two workers, a core each", two, workers=2)
            print(f"two workers do {one.wall / two.wall:.2f} times what one does")
        else:
            print("this process may use one core only: two workers are not measured")
        os.sched_setaffinity(0, cores)
        if args.ray:
            from vis_projects.bulk.ray_engine import RayEngine

            os.environ.setdefault("RAY_worker_niceness", "0")  # the others run at 0, too
            ray = timed(settings("ray"), videos, lambda s: RayEngine(s, workers=1, device="cpu"))
            told("Ray, one actor", ray)


def told(name: str, clock: Clock, *, workers: int = 1) -> None:
    """Print videos a second and the overhead a video."""
    count = len(clock.ends)
    beyond = 1000 * (clock.wall * workers - sum(clock.inside)) / count
    print(f"{name}: {count} videos in {clock.wall:.1f} s, {clock.wall / count * 1000:.0f} ms each; "
          f"overhead {beyond:.1f} ms a video", flush=True)  # fmt: skip
