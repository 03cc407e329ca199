"""Events, writers, the training loop, hooks, and the default trainer."""

from __future__ import annotations

import json
import math

import pytest
import torch
from detectron2.engine import (
    AMPTrainer,
    BestCheckpointer,
    CallbackHook,
    EvalHook,
    HookBase,
    IterationTimer,
    LRScheduler,
    PeriodicCheckpointer,
    PeriodicWriter,
    PreciseBN,
    SimpleTrainer,
    TrainerBase,
)
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
    has_event_storage,
)
from fvcore.common.checkpoint import Checkpointer
from fvcore.common.param_scheduler import LinearParamScheduler
from torch import nn

# ---------------------------------------------------------------- events


def test_storage_scalars():
    with pytest.raises(AssertionError):
        get_event_storage()
    assert not has_event_storage()
    with EventStorage(10) as storage:
        assert get_event_storage() is storage and has_event_storage()
        for i, value in enumerate([1.0, 5.0, 3.0]):
            storage.iter = 10 + i
            storage.put_scalar("x", torch.tensor(value))
            storage.put_scalar("y", value, smoothing_hint=False)
        assert storage.history("x").values() == [(1.0, 10), (5.0, 11), (3.0, 12)]
        assert storage.latest() == {"x": (3.0, 12), "y": (3.0, 12)}
        assert storage.latest_with_smoothing_hint(2) == {"x": (4.0, 12), "y": (3.0, 12)}
        with storage.name_scope("head"):
            storage.put_scalars(a=1, b=2)
        assert storage.latest()["head/a"] == (1.0, 12)
        with pytest.raises(AssertionError):
            storage.put_scalar("x", 1, smoothing_hint=False)
        with pytest.raises(KeyError):
            storage.history("z")
        with EventStorage() as inner:
            assert get_event_storage() is inner
        assert get_event_storage() is storage


def test_json_lines_per_iteration(tmp_path):
    writer = JSONWriter(str(tmp_path / "metrics.json"))
    with EventStorage() as storage:
        storage.put_scalar("a", 1, smoothing_hint=False)
        storage.iter = 1
        storage.put_scalar("b", 2, smoothing_hint=False)
        writer.write()
        storage.iter = 2
        storage.put_scalar("a", 3, smoothing_hint=False)
        writer.write()
        writer.write()  # nothing new
    writer.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert lines == [
        {"iteration": 0, "a": 1.0},
        {"iteration": 1, "b": 2.0},
        {"iteration": 2, "a": 3.0},
    ]


def test_tensorboard_file_appears_with_the_first_write(tmp_path):
    writer = TensorboardXWriter(str(tmp_path / "tb"))
    assert not (tmp_path / "tb").exists()
    with EventStorage() as storage:
        storage.put_scalar("a", 1)
        storage.put_image("image", torch.zeros(3, 4, 4))
        storage.put_histogram("weights", torch.arange(10.0), bins=5)
        writer.write()
        assert not storage._images and not storage._histograms
    writer.close()
    assert list((tmp_path / "tb").glob("events*"))


def test_printed_line(caplog):
    printer = CommonMetricPrinter(max_iter=100)
    with caplog.at_level("INFO"), EventStorage(4) as storage:
        storage.put_scalars(total_loss=1.25, time=2.0, data_time=0.5)
        storage.put_scalar("lr", 0.01, smoothing_hint=False)
        printer.write()
    line = caplog.messages[-1]
    for part in ("eta: 0:03:10", "iter: 4", "total_loss: 1.25", "time: 2.0000", "lr: 0.01"):
        assert part in line


# ---------------------------------------------------------------- loop


class Scalar(nn.Module):
    """Two losses of one weight."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return {"loss_a": self.w * x, "loss_b": self.w**2}


def simple(model=None, data=(1.0, 2.0, 3.0, 4.0) * 10, lr=0.1, **options):
    model = model or Scalar()
    return SimpleTrainer(model, list(data), torch.optim.SGD(model.parameters(), lr=lr), **options)


def test_hooks_are_called_in_order_and_after_train_always():
    calls = []

    class Loop(TrainerBase):
        def run_step(self):
            calls.append(f"run{self.iter}")
            if self.iter == 6:
                raise RuntimeError("stop")

    class Recorder(HookBase):
        def __init__(self, name):
            self.name = name

        def before_train(self):
            calls.append(f"{self.name}:before_train")

        def after_train(self):
            calls.append(f"{self.name}:after_train{self.trainer.iter}")

        def before_step(self):
            assert get_event_storage().iter == self.trainer.iter

        def after_step(self):
            calls.append(f"{self.name}:after{self.trainer.iter}")

    loop = Loop()
    loop.register_hooks([Recorder("a"), None, Recorder("b")])
    loop.train(3, 5)
    assert calls == [
        "a:before_train",
        "b:before_train",
        *["run3", "a:after3", "b:after3"],
        *["run4", "a:after4", "b:after4"],
        "a:after_train5",
        "b:after_train5",
    ]
    calls.clear()
    with pytest.raises(RuntimeError):
        loop.train(6, 8)
    assert calls[-1] == "b:after_train6"


@pytest.mark.parametrize("early", [True, False])
def test_simple_trainer_sums_the_losses(early):
    trainer = simple(zero_grad_before_forward=early)
    seen = []
    trainer.register_hooks(
        [CallbackHook(after_step=lambda t: seen.append(t.storage.latest()["total_loss"][0]))]
    )
    trainer.train(0, 2)
    w = 1.0
    for x, total in zip([1.0, 2.0], seen):
        assert total == pytest.approx(w * x + w**2)
        w -= 0.1 * (x + 2 * w)
    assert trainer.model.w.item() == pytest.approx(w)
    assert {"loss_a", "loss_b", "data_time", "rank_data_time"} <= set(trainer.storage.latest())


def test_a_tensor_is_a_loss_and_metrics_can_be_written_in_a_thread():
    class One(Scalar):
        def forward(self, x):
            return self.w * x

    trainer = simple(One(), async_write_metrics=True, gather_metric_period=2)
    trainer.train(0, 4)
    assert [at for _, at in trainer.storage.history("total_loss").values()] == [1, 3]


def test_after_backward_sees_gradients():
    trainer = simple()

    class Check(HookBase):
        found = []

        def after_backward(self):
            self.found.append(self.trainer.model.w.grad.item())

    trainer.register_hooks([Check()])
    trainer.train(0, 1)
    assert Check.found == [3.0]


@pytest.mark.lite
def test_non_finite_loss_stops():
    trainer = simple(data=[1.0, math.nan])
    with pytest.raises(FloatingPointError, match="iteration=1"):
        trainer.train(0, 2)


@pytest.mark.lite
def test_evaluation_mode_is_refused():
    trainer = simple()
    trainer.model.eval()
    with pytest.raises(AssertionError, match="evaluation mode"):
        trainer.train(0, 1)


@pytest.mark.lite
@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without CUDA")
def test_amp_trainer_needs_cuda():
    model = Scalar()
    trainer = AMPTrainer(model, [1.0], torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(AssertionError, match="CUDA"):
        trainer.train(0, 1)


def test_resumed_training_equals_an_uninterrupted_one():
    def build():
        model = Scalar()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        trainer = SimpleTrainer(model, [1.0] * 10, optimizer)
        trainer.register_hooks([LRScheduler(scheduler=LinearParamScheduler(1, 0))])
        return trainer

    whole = build()
    whole.train(0, 6)
    first = build()
    first.max_iter = 6
    stop = CallbackHook(after_step=lambda t: None)
    first.register_hooks([stop])

    class Stop(Exception):
        pass

    def leave(trainer):
        if trainer.iter == 2:
            raise Stop

    first.register_hooks([CallbackHook(after_step=leave)])
    with pytest.raises(Stop):
        first.train(0, 6)
    state = first.state_dict()
    assert state["iteration"] == 2
    assert state["hooks"]["LRScheduler"]["last_epoch"] == 3
    second = build()
    second.model.load_state_dict(first.model.state_dict())
    # the scheduler of a ParamScheduler hook exists from before_train on
    second.optimizer.load_state_dict(state["optimizer"])
    second.optimizer.param_groups[0]["initial_lr"] = 0.1
    second.train(3, 6)
    assert second.model.w.item() == pytest.approx(whole.model.w.item(), abs=1e-7)


# ---------------------------------------------------------------- hooks


@pytest.mark.lite
def test_evaluation_periods_and_results():
    evaluated = []
    trainer = simple()

    def evaluate():
        evaluated.append(trainer.iter)
        return {"bbox": {"AP": 10.0 + trainer.iter}}

    trainer.register_hooks([EvalHook(2, evaluate)])
    trainer.train(0, 6)
    assert evaluated == [1, 3, 6]  # not twice at the end
    assert trainer.storage.latest()["bbox/AP"] == (16.0, 6)

    failing = simple(data=[math.nan])
    evaluated.clear()
    failing.register_hooks([EvalHook(0, lambda: evaluated.append(0))])
    with pytest.raises(FloatingPointError):
        failing.train(0, 1)
    assert evaluated == []
    words = simple()
    words.register_hooks([EvalHook(1, lambda: {"a": "b"})])
    with pytest.raises(ValueError, match="numbers"):
        words.train(0, 2)


def test_checkpoints(tmp_path):
    trainer = simple()
    checkpointer = Checkpointer(trainer.model, str(tmp_path))
    trainer.register_hooks([PeriodicCheckpointer(checkpointer, 2)])
    trainer.train(0, 5)
    names = sorted(p.name for p in tmp_path.glob("*.pth"))
    assert names == ["model_0000001.pth", "model_0000003.pth", "model_final.pth"]


@pytest.mark.parametrize(("mode", "best"), [("max", 3), ("min", 1)])
def test_best_checkpoint(tmp_path, mode, best):
    trainer = simple()
    values = {1: 1.0, 3: 9.0, 5: 4.0, 8: math.nan}
    checkpointer = Checkpointer(trainer.model, str(tmp_path))
    hook = BestCheckpointer(2, checkpointer, "task/x", mode=mode)
    trainer.register_hooks(
        [EvalHook(2, lambda: {"task": {"x": values.get(trainer.iter, 5.0)}}), hook]
    )
    trainer.train(0, 8)
    assert hook.best_iter == best
    assert checkpointer.load(str(tmp_path / "model_best.pth"))["iteration"] == best


def test_learning_rate_is_recorded_and_stepped():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(
        [{"params": [model.bias], "lr": 5.0}, {"params": [model.weight], "lr": 1.0}], lr=0.1
    )
    assert LRScheduler.get_best_param_group_id(optimizer) == 0

    class Loop(TrainerBase):
        def run_step(self):
            optimizer.step()

    loop = Loop()
    loop.register_hooks([LRScheduler(optimizer, LinearParamScheduler(1, 0))])
    loop.train(0, 4)
    rates = [value for value, _ in loop.storage.history("lr").values()]
    assert rates == pytest.approx([5.0, 3.75, 2.5, 1.25])


def test_writers_are_called_and_closed():
    log = []

    class Writer(EventWriter):
        def write(self):
            log.append(get_event_storage().iter)

        def close(self):
            log.append("closed")

    trainer = simple()
    trainer.register_hooks([IterationTimer(), PeriodicWriter([Writer()], period=3)])
    trainer.train(0, 7)
    assert log == [2, 5, 6, 7, "closed"]
    assert "time" in trainer.storage.latest()


def test_precise_bn_averages_batches():
    model = nn.Sequential(nn.BatchNorm1d(1))
    data = [torch.randn(8, 1) + i for i in range(4)]

    class Loop(TrainerBase):
        def run_step(self):
            pass

    loop = Loop()
    loop.register_hooks([PreciseBN(0, model, data, 4)])
    loop.train(0, 1)
    expected = torch.stack([x.mean() for x in data]).mean()
    torch.testing.assert_close(model[0].running_mean[0], expected)
