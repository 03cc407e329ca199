"""The same 24 videos on a Ray cluster of two nodes, of which one is killed in the middle."""

from __future__ import annotations

from pathlib import Path

import pytest
from many_videos import BAD, contents, make_videos, plan_for, run_here, states

from vis_projects.bulk import run_plan


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_node_that_dies_loses_nothing(tmp_path: Path, monkeypatch) -> None:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    from vis_projects.bulk.ray_engine import RayEngine

    make_videos(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_worker_niceness", "0")
    run_here("local")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        plan = plan_for("out")
        reports, killed = [], []

        def reported(report) -> None:
            reports.append(report)
            if len(reports) == 8:
                cluster.remove_node(second, allow_graceful=False)
                killed.append(report.name)

        run_plan(plan, RayEngine(plan.settings, workers=2, device="cpu"), reported)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert killed
    names = [report.name for report in reports]
    assert len(names) == len(set(names)) == 24
    assert states(tmp_path) == states(tmp_path, "local")
    assert {n for n, (state, *_) in states(tmp_path).items() if state == "failed"} == BAD
    assert contents(tmp_path) == contents(tmp_path, "local")
