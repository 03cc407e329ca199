"""The trainer: resuming, checkpoints, evaluation, what a run leaves."""

from __future__ import annotations

import json
import os
import re
import signal

import numpy as np
import pytest
import torch
from detectron2.evaluation import DatasetEvaluator
from tiny_system import build_trainer, tiny_cfg
from training_runs import checkpoint, run_script

from vis_projects.engine import VideoTrainer, load_weights
from vis_projects.engine.checkpointer import write_atomically
from vis_projects.engine.random_state import (
    deterministic_algorithms,
    get_random_state,
    kept_random_state,
    set_random_state,
)
from vis_projects.engine.training_hooks import drop_metrics_from
from vis_projects.structures import InputError
from vis_projects.video import VideoFileSource


def assert_same(a, b, where: str = "") -> None:
    """Every number of two nested states has the same bits."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b)):
            assert_same(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def test_killed_training_continues_bit_for_bit(tmp_path):
    torch.set_num_threads(1)
    whole = build_trainer(tiny_cfg(tmp_path / "whole"))
    whole.train()
    killed = run_script("--kill-at", 4, tmp_path / "killed")
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert not (tmp_path / "killed/model_final.pth").exists()
    resumed = build_trainer(tiny_cfg(tmp_path / "killed"), resume=True)
    assert resumed.start_iter == 3  # iteration 2 was the last one saved
    resumed.train()
    assert_same(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "killed"))
    assert_same(
        checkpoint(tmp_path / "whole", "model_ema.pth"),
        checkpoint(tmp_path / "killed", "model_ema.pth"),
    )


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "a.pth"
    write_atomically(file, lambda f: f.write(b"old"))

    def fail(f):
        f.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(file, fail)
    assert file.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a.pth"]
    (tmp_path / ".model_final.pth.123.part").write_bytes(b"of a process that was killed")
    build_trainer(tiny_cfg(tmp_path))
    assert not list(tmp_path.glob(".*.part"))


def test_evaluation_leaves_no_trace_in_the_training(tmp_path, monkeypatch):
    def noisy(cls, cfg, model, evaluators=None):
        torch.rand(3), np.random.rand(2)
        assert cls is VideoTrainer
        return {"vos": {"J": 1.0, "J&F-name": 2.0}}

    build_trainer(tiny_cfg(tmp_path / "a")).train()
    monkeypatch.setattr(VideoTrainer, "test", classmethod(noisy))
    test_set = "('synthetic_val:videos=1:length=2:size=48x64',)"
    trainer = build_trainer(
        tiny_cfg(tmp_path / "b", "TEST.EVAL_PERIOD", 2, "DATASETS.TEST", test_set)
    )
    assert trainer.train() == {"vos": {"J": 1.0, "J&F-name": 2.0}}
    assert_same(checkpoint(tmp_path / "a"), checkpoint(tmp_path / "b"))
    assert [at for _, at in trainer.storage.history("vos/J").values()] == [1, 3, 5, 8]
    assert "vos/J&F-name" not in trainer.storage.latest()


def test_averaged_weights_are_evaluated_and_stored(tmp_path):
    seen = []

    class Look(DatasetEvaluator):
        def process(self, inputs, outputs):
            assert outputs[0].length == 2

        def evaluate(self):
            return {"vos": {"J": 50.0}}

    class Trainer(VideoTrainer):
        @classmethod
        def test(cls, cfg, model, evaluators=None):
            seen.append({n: p.detach().clone() for n, p in model.named_parameters()})
            return super().test(cfg, model, Look())

    torch.manual_seed(0)
    trainer = Trainer(
        tiny_cfg(
            tmp_path,
            *("DATASETS.TEST", "('synthetic_val:videos=1:length=2:size=48x64',)"),
            *("SOLVER.MAX_ITER", 2),
        )
    )
    trainer.resume_or_load(False)
    assert trainer.train() == {"vos": {"J": 50.0}}
    assert json.loads((tmp_path / "scores.json").read_text()) == {
        trainer.cfg.DATASETS.TEST[0]: {"vos": {"J": 50.0}}
    }
    assert "50.00" in (tmp_path / "scores.md").read_text()
    assert VideoFileSource(tmp_path / "overlay.mp4").length == 2
    stored = checkpoint(tmp_path, "model_ema.pth")["model"]
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(seen[0][name], stored[name])
        assert not torch.equal(parameter.data, stored[name])
    assert trainer.model.training


def test_outputs_and_resuming_a_finished_run(tmp_path, caplog):
    cfg = tiny_cfg(tmp_path, "SOLVER.KEEP_CHECKPOINTS", 1)
    with caplog.at_level("INFO", "vis_projects.engine.training_hooks"):
        build_trainer(cfg).train()
    share = re.search(r"data loading: (\d+) % of a step \((\S+) of (\S+) s\)", caplog.text)
    assert 0 <= int(share[1]) <= 100 and float(share[2]) <= float(share[3])
    names = {p.name.split(".")[0] for p in tmp_path.iterdir()}
    assert names == {
        *("metrics", "curves", "events", "last_checkpoint"),
        *("model_0000005", "model_final", "model_ema"),
    }
    rows = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert rows[-1]["iteration"] == 7 and {"lr", "total_loss", "loss_mask"} <= set(rows[-1])
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    again = build_trainer(cfg, resume=True)
    assert again.start_iter == 8
    again.train()
    cfg.SOLVER.MAX_ITER = 10  # a longer run goes on
    longer = build_trainer(cfg, resume=True)
    longer.train()
    assert checkpoint(tmp_path)["iteration"] == 9
    assert not list(tmp_path.glob(".*"))


def test_broken_and_foreign_checkpoints(tmp_path):
    cfg = tiny_cfg(tmp_path, "SOLVER.MAX_ITER", 1)
    build_trainer(cfg).train()
    file = tmp_path / "model_final.pth"
    good = file.read_bytes()

    file.write_bytes(good[: len(good) // 2])
    with pytest.raises(InputError, match=r"model_final.pth: cannot be resumed.*last_checkpoint"):
        build_trainer(cfg, resume=True)
    file.unlink()
    with pytest.raises(InputError, match="no such file"):
        build_trainer(cfg, resume=True)
    data = torch.load(__import__("io").BytesIO(good), weights_only=True)
    data["model"]["head.weight"] = torch.zeros(2, 4, 1, 1)
    torch.save(data, file)
    with pytest.raises(InputError, match=r"another model.*head\.weight"):
        build_trainer(cfg, resume=True)
    torch.save({"model": data["model"]}, file)
    with pytest.raises(InputError, match="no trainer"):
        build_trainer(cfg, resume=True)


def test_weights_files(tmp_path):
    import pickle

    cfg = tiny_cfg(tmp_path, "SOLVER.MAX_ITER", 1)
    trainer = build_trainer(cfg)
    with pytest.raises(InputError, match=r"weights nowhere\.pth"):
        load_weights(trainer.model, "nowhere.pth")

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": Evil(), "__author__": "x"}))
    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    for name in ("evil.pkl", "evil.pth"):
        with pytest.raises(InputError, match=rf"{name}: its entry 'model' is .* posix.system"):
            load_weights(trainer.model, str(tmp_path / name))
    assert not (tmp_path / "ran").exists()
    torch.save({"model": {"other": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="no tensor fits"):
        load_weights(trainer.model, str(tmp_path / "other.pth"))

    state = {k: np.array(v.numpy() + 1) for k, v in trainer.model.state_dict().items()}
    blob = {"model": state, "__author__": "test", "scale": np.float64(1.0)}
    (tmp_path / "arrays.pkl").write_bytes(pickle.dumps(blob))
    load_weights(trainer.model, str(tmp_path / "arrays.pkl"))
    assert np.array_equal(trainer.model.head.weight.detach().numpy(), state["head.weight"])
    # an old .pth with numpy numbers beside the tensors
    torch.save({"model": trainer.model.state_dict(), "AP": np.float64(1.0)}, tmp_path / "np.pth")
    load_weights(trainer.model, str(tmp_path / "np.pth"))


def test_random_states_come_back():
    state = get_random_state()
    first = (torch.rand(2).tolist(), np.random.rand(2).tolist())
    set_random_state(state)
    with kept_random_state():
        torch.rand(5), np.random.rand(5)
    assert (torch.rand(2).tolist(), np.random.rand(2).tolist()) == first


def test_sums_have_a_fixed_order_only_while_training(tmp_path):
    trainer = build_trainer(tiny_cfg(tmp_path, "SOLVER.MAX_ITER", 1))
    inside = []
    trainer.model.head.register_forward_hook(
        lambda *_: inside.append(torch.are_deterministic_algorithms_enabled())
    )
    trainer.train()
    assert inside == [True] and not torch.are_deterministic_algorithms_enabled()
    # what goes wrong without: a gradient summed by several threads
    torch.set_num_threads(2)
    values = torch.rand(200_000)
    index = torch.randint(0, 50, (200_000,))
    with deterministic_algorithms(True):
        sums = [torch.zeros(50).index_put((index,), values, accumulate=True) for _ in range(5)]
    assert all(torch.equal(s, sums[0]) for s in sums)


def test_metrics_are_cut_where_the_run_goes_on(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 19}\n{"iteration": 39}\n{"iteration": 5')
    drop_metrics_from(path, 39)
    assert path.read_text() == '{"iteration": 19}\n'
    drop_metrics_from(path, 0)
    assert path.read_text() == ""
    assert (tmp_path / "metrics.previous.json").read_text() == '{"iteration": 19}\n'


def test_what_cannot_be_trained(tmp_path):
    cfg = tiny_cfg(tmp_path)
    cfg.MODEL.META_ARCHITECTURE = "CopyFirst"
    with pytest.raises(InputError, match="CopyFirst has nothing to train"):
        VideoTrainer(cfg)
    with pytest.raises(InputError, match="nowhere"):
        VideoTrainer(tiny_cfg(tmp_path, "DATASETS.TEST", "('nowhere',)"))


def test_processes_wait_through_long_evaluations(monkeypatch):
    from argparse import Namespace
    from datetime import timedelta

    from vis_projects.engine import distributed

    seen = {}
    monkeypatch.setattr(distributed, "launch", lambda *a, **k: seen.update(k))
    monkeypatch.delenv("RANK", raising=False)
    args = Namespace(num_gpus=2, num_machines=1, machine_rank=0, dist_url="auto")
    distributed.run_distributed(print, args)
    assert seen["timeout"] >= timedelta(days=1)

    monkeypatch.setattr(distributed.dist, "init_process_group", lambda *a, **k: seen.update(k))
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(distributed.comm, "create_local_process_group", lambda n: None)
    for key, value in {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(key, str(value))
    seen.clear()
    distributed.run_distributed(lambda a: None, args)
    assert seen["timeout"] >= timedelta(days=1)
