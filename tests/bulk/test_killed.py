"""kill -9 of the driver at random moments: no finished video is lost, done twice or half."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from many_videos import BAD, drive, finished, make_videos, plan_for, run_here, settings_for, states

from vis_projects.bulk import Worker

KILLS = 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_driver_loses_nothing(tmp_path: Path, monkeypatch) -> None:
    """Every driver is killed a moment after it finished a video.

    Drivers are forks of a server without threads: a fork of the test's process would inherit locks
    that nobody frees.
    """
    make_videos(tmp_path, good=21, frames=2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vis_projects", "vis_projects.cli", "vis_projects.bulk"])
    worker, rng, before = Worker(settings_for("out")), random.Random(7), {}
    for _ in range(KILLS):
        driver = context.Process(target=drive, args=("out",))
        driver.start()
        begin = time.monotonic()
        while len(finished(tmp_path)) <= len(before):
            assert time.monotonic() - begin < 120, "no video was finished"
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        driver.kill()
        driver.join()
        now = finished(tmp_path)
        assert {name: now[name] for name in before} == before, "lost, or done twice"
        for name in now:
            assert len(list((tmp_path / "out" / name / "masks").glob("*.png"))) == 2
            json.loads((tmp_path / "out" / name / "results.json").read_text())
        before = now
        if len(now) >= 21:
            break
    run_here("out", worker)
    now = finished(tmp_path)
    assert {name: now[name] for name in before} == before
    found = states(tmp_path)
    assert {name for name, (state, *_) in found.items() if state == "failed"} == BAD
    assert len(found) == 24
    rows = (tmp_path / "out/times.jsonl").read_text().splitlines()
    times = Counter(json.loads(row)["name"] for row in rows)
    assert max(times[name] for name in found if name not in BAD) == 1
    assert not (tmp_path / "out/.work").exists()
    assert not list((tmp_path / "out").glob(".*.part"))
    assert plan_for("out").counts() == {"done": 21, "failed": 3, "missing": 0}
