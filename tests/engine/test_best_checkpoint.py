"""The best weights are kept, and a training that no longer improves ends by itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tiny_system import build_trainer, tiny_cfg

from vis_projects.engine import VideoTrainer
from vis_projects.engine.best_checkpoint import find_score
from vis_projects.structures import InputError

TEST_SET = "('synthetic_val:videos=1:length=2:size=48x64',)"


@pytest.fixture
def scored(monkeypatch):
    """Let the evaluations of the next trainings give these scores."""

    def give(scores: Sequence[float]) -> None:
        rest = iter(scores)
        result = classmethod(lambda cls, cfg, model: {"segm": {"AP": next(rest), "AP-cat": 0.0}})
        monkeypatch.setattr(VideoTrainer, "test", result)

    return give


def train(folder: Path, iterations: int, *opts: object, resume: bool = False) -> VideoTrainer:
    cfg = tiny_cfg(
        folder,
        *("SOLVER.MAX_ITER", iterations, "TEST.EVAL_PERIOD", 2, "SOLVER.CHECKPOINT_PERIOD", 2),
        *("SOLVER.BEST_METRIC", "AP", "DATASETS.TEST", TEST_SET, "TEST.OVERLAY_VIDEOS", 0),
        *opts,
    )
    trainer = build_trainer(cfg, resume)
    trainer.train()
    return trainer


def best(folder: Path) -> dict:
    return json.loads((folder / "best.json").read_text())


def test_the_best_weights_are_those_that_were_evaluated(tmp_path: Path, scored) -> None:
    scored([10.0, 30.0, float("nan"), 20.0])
    train(tmp_path, 8)
    assert best(tmp_path) == {"metric": "AP", "score": 30.0, "iteration": 3, "without": 2}
    kept = torch.load(tmp_path / "model_best.pth", weights_only=True)["model"]
    at_4 = torch.load(tmp_path / "model_0000003.pth", weights_only=True)
    final = torch.load(tmp_path / "model_final.pth", weights_only=True)
    averaged = at_4["ema"]["state"] if "state" in at_4.get("ema", {}) else None
    assert any(not torch.equal(kept[k], final["model"][k]) for k in kept)
    if averaged is not None:
        for name in averaged.keys() & kept.keys():
            assert torch.allclose(kept[name], averaged[name].to(kept[name].dtype))


def test_it_ends_when_nothing_improves(tmp_path: Path, scored) -> None:
    scored([10.0, 9.0, 8.0, 99.0])
    trainer = train(tmp_path, 100, "SOLVER.EARLY_STOP", 2)
    assert trainer.iter == 5
    assert best(tmp_path)["iteration"] == 1
    assert (tmp_path / "model_0000005.pth").is_file()  # where it ended


def test_a_resumed_run_knows_the_best(tmp_path: Path, scored) -> None:
    scored([50.0, 40.0])
    train(tmp_path, 4)
    scored([45.0, 60.0])
    train(tmp_path, 8, resume=True)
    assert best(tmp_path) == {"metric": "AP", "score": 60.0, "iteration": 7, "without": 0}
    (tmp_path / "model_best.pth").unlink()
    scored([1.0])
    train(tmp_path, 10, resume=True)
    assert best(tmp_path)["score"] == 60.0
    assert not (tmp_path / "model_best.pth").exists()


def test_wrong_names_are_said(tmp_path: Path, scored) -> None:
    scored([1.0])
    with pytest.raises(InputError, match=r"no such score; there are AP$"):
        train(tmp_path / "a", 4, "SOLVER.BEST_METRIC", "J&F")
    with pytest.raises(InputError, match=r"TEST\.EVAL_PERIOD"):
        train(tmp_path / "b", 4, "TEST.EVAL_PERIOD", 0)


def test_scores_of_several_sets() -> None:
    results = {"a": {"segm": {"AP": 1.0}}, "b": {"vos": {"J&F": 2.0}}}
    assert find_score(results, "AP") == 1.0 and find_score(results, "J&F") == 2.0
    assert find_score(results, "J") is None
