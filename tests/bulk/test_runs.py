"""24 videos by command: engines agree, the bad are named, a killed driver loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from many_videos import BAD, command, contents, finished, make_videos, states, vis_run


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_two_shards_and_a_second_call(tmp_path: Path) -> None:
    make_videos(tmp_path)
    dry = vis_run(tmp_path, "--dry-run")
    assert dry.returncode == 0 and dry.stdout.startswith("24 videos: 0 done before, 24 to do")
    assert not (tmp_path / "out").exists()
    local = vis_run(tmp_path, "--workers", "2")
    assert local.returncode == 3, local.stdout + local.stderr
    assert "21 done, 3 failed, 0 missing" in local.stdout
    found = states(tmp_path)
    assert {name for name, (state, *_) in found.items() if state == "failed"} == BAD
    assert all(error for _, _, error in (found[name] for name in BAD))
    assert {"in_twin", "more_twin"} <= set(found)
    for name in BAD:
        assert name in local.stderr
    parts = [vis_run(tmp_path, "--shard", f"{i}/2", output="shards") for i in (1, 2)]
    assert [p.returncode for p in parts] == [3, 3], parts[0].stderr + parts[1].stderr
    assert states(tmp_path, "shards") == found
    assert contents(tmp_path, "shards") == contents(tmp_path)
    kept = finished(tmp_path)
    again = vis_run(tmp_path, "--retry-failed")
    assert again.returncode == 3 and "21 done before, 3 to do" in again.stdout
    assert finished(tmp_path) == kept, "a finished video was done twice"
    (tmp_path / "in/zero.mp4").write_bytes((tmp_path / "in/v01.mp4").read_bytes())
    assert vis_run(tmp_path).returncode == 3
    assert states(tmp_path)["zero"][0] == "done"
    other = vis_run(tmp_path, "INPUT.FORMAT", "RGB")
    assert other.returncode == 2 and "another config" in other.stderr


@pytest.mark.slow
def test_sigterm_ends_with_what_is_done_written(tmp_path: Path) -> None:
    make_videos(tmp_path, good=30)
    process = subprocess.Popen(
        command(), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while len(finished(tmp_path)) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    last = errors.strip().splitlines()[-1]
    assert last.startswith("vis run: stopped: SIGTERM; ") and "the same command continues" in last
    found = states(tmp_path)
    assert {name for name, (state, *_) in found.items() if state == "done"} <= set(
        finished(tmp_path)
    )
    assert not (tmp_path / "out/.work").exists() or not any((tmp_path / "out/.work").iterdir())
