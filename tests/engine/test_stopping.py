"""Signals end a training with a checkpoint; what is there already is not replaced unasked."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from detectron2.engine import CallbackHook
from tiny_system import build_trainer, go_on, tiny_cfg
from training_runs import checkpoint

from vis_projects.engine.job import refuse_to_replace
from vis_projects.engine.training_step import Diverged
from vis_projects.structures import InputError
from vis_projects.structures.errors import one_line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_running_iteration_and_resuming_gives_the_same_bits(
    number: int, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    build_trainer(tiny_cfg(tmp_path / "whole")).train()
    stopped = build_trainer(tiny_cfg(tmp_path / "stopped"))

    def ask(trainer) -> None:
        if trainer.iter == 4:
            os.kill(os.getpid(), number)

    stopped.register_hooks([CallbackHook(before_step=ask)])
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match=r"model_0000004\.pth is written: --resume"):
        stopped.train()
    assert signal.getsignal(number) is before
    resumed = build_trainer(tiny_cfg(tmp_path / "stopped"), resume=True)
    assert resumed.start_iter == 5
    resumed.train()
    wanted, found = (checkpoint(tmp_path / name)["model"] for name in ("whole", "stopped"))
    assert all(torch.equal(wanted[k], found[k]) for k in wanted)


def test_a_signal_during_an_evaluation_loses_no_iteration(tmp_path: Path) -> None:
    opts = ("DATASETS.TEST", "('synthetic_uvos_val:videos=1:length=2:size=48x64',)")
    trainer = build_trainer(tiny_cfg(tmp_path, *opts, "TEST.EVAL_PERIOD", 5))

    def test(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    trainer.test = test
    with pytest.raises(KeyboardInterrupt, match=r"model_0000004\.pth is written"):
        trainer.train()
    assert build_trainer(tiny_cfg(tmp_path), resume=True).start_iter == 5


def test_a_loss_that_is_no_number_says_what_to_do(tmp_path: Path) -> None:
    trainer = build_trainer(tiny_cfg(tmp_path, "SOLVER.BASE_LR", 0.25))

    def break_it(t) -> None:
        if t.iter == 2:
            t.checkpointer.model.head.weight.data.fill_(float("nan"))

    trainer.register_hooks([CallbackHook(before_step=break_it)])
    with pytest.raises(Diverged) as caught:
        trainer.train()
    text = one_line(caught.value)
    assert re.match(r"iteration 2: loss_mask is nan, loss_size is nan; try a smaller SOLVER", text)
    assert "CLIP_GRADIENTS" in text and "--resume" in text


def test_an_earlier_training_is_kept_unless_somebody_says_so(tmp_path: Path) -> None:
    build_trainer(tiny_cfg(tmp_path, "SOLVER.MAX_ITER", 2)).train()
    with pytest.raises(InputError, match=r"finished training \(model_final.pth\): --resume"):
        refuse_to_replace(tmp_path, resume=False, overwrite=False)
    refuse_to_replace(tmp_path, resume=True, overwrite=False)
    assert (tmp_path / "last_checkpoint").is_file()
    refuse_to_replace(tmp_path, resume=False, overwrite=True)
    assert not (tmp_path / "last_checkpoint").exists()
    refuse_to_replace(tmp_path, resume=False, overwrite=False)
    assert (tmp_path / "model_final.pth").is_file()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kills", [6, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_random_moments_a_training_loses_nothing_finished(
    tmp_path: Path, kills: int
) -> None:
    """SIGKILL, SIGTERM and SIGINT in turn; the end is that of an undisturbed run.

    The trainings are forks of a server without threads: a fork of the test's process would inherit
    locks that nobody frees. One that comes to its end before its signal is compared, and another
    begins.
    """
    opts = ["SOLVER.MAX_ITER", "40", "SOLVER.CHECKPOINT_PERIOD", "3"]
    torch.set_num_threads(1)
    build_trainer(tiny_cfg(tmp_path / "whole", *opts)).train()
    wanted = checkpoint(tmp_path / "whole")["model"]
    folder, rng, reached = tmp_path / "killed", random.Random(3), -1
    kinds = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vis_projects", "vis_projects.engine"])

    def check_the_end() -> None:
        found = checkpoint(folder)["model"]
        assert all(torch.equal(wanted[k], found[k]) for k in wanted)

    for number in range(kills):
        child = context.Process(target=go_on, args=(str(folder), opts))
        child.start()
        begin = time.monotonic()
        while last_iteration(folder) <= reached and child.is_alive():
            assert time.monotonic() - begin < 600, "no checkpoint was written"
            time.sleep(0.001)
        child.join(rng.uniform(0, 0.05))
        with suppress(ProcessLookupError):  # it has come to its end
            os.kill(child.pid, kinds[number % 3])
        child.join()
        for file in folder.glob("*.pth"):
            torch.load(file, weights_only=True)  # whole, or not there
        assert last_iteration(folder) >= reached, "a finished iteration was lost"
        reached = last_iteration(folder)
        if (folder / "model_final.pth").exists() and child.exitcode == 0:
            check_the_end()
            shutil.rmtree(folder)
            reached = -1
    build_trainer(tiny_cfg(folder, *opts), resume=True).train()
    check_the_end()


def last_iteration(folder: Path) -> int:
    """Iteration of the checkpoint that a resumed run takes, -1 without one."""
    last = folder / "last_checkpoint"
    if not last.is_file():
        return -1
    return torch.load(folder / last.read_text(), weights_only=True)["iteration"]
