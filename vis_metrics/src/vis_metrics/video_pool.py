"""Running one function over many videos, in this process or in several, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

import cv2
from tqdm import tqdm

Job = TypeVar("Job")
Result = TypeVar("Result")


def map_videos(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    num_workers: int = 0,
    description: str = "J and F",
    unit: str = "video",
    progress: bool = False,
) -> list[Result]:
    """Return ``function(job)`` of every job, in order; the first exception ends the work.

    ``num_workers`` processes share the jobs; with 0, or a single job, this process does them.
    """
    results: list[Result] = []
    workers = min(num_workers, len(jobs))
    with tqdm(total=len(jobs), desc=description, unit=unit, disable=not progress) as bar:
        if workers <= 1:
            for job in jobs:
                results.append(function(job))
                bar.update()
            return results
        # A forked copy of a process that has used OpenCV's threads can hang: start afresh.
        fresh = get_context("spawn")
        with ProcessPoolExecutor(workers, fresh, initializer=_one_thread) as pool:
            try:
                for result in pool.map(function, jobs):
                    results.append(result)
                    bar.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return results


def _one_thread() -> None:
    cv2.setNumThreads(1)  # the processes share the cores already
