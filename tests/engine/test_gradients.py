"""The trainer's gradients: accumulation, precision, clipping, two processes."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest
import torch
from detectron2.engine import HookBase
from tiny_system import build_trainer, make_plain, tiny_cfg
from training_runs import ENVIRONMENT, SCRIPT, checkpoint, run_script

from vis_projects.structures import InputError, device


class Gradients(HookBase):
    """Keeps the first gradient."""

    def __init__(self, model):
        self.model, self.kept = model, None

    def after_step(self):
        if self.kept is None:
            self.kept = {n: p.grad.clone() for n, p in self.model.named_parameters()}


def deterministic(model):
    """No dropout and no batch statistics: losses are means over the items."""
    make_plain(model)
    model.backbone[1].momentum = 0.0
    model.backbone[1].eval()
    model.backbone[1].train = lambda mode=True: model.backbone[1]


def first_gradient(cfg):
    trainer = build_trainer(cfg)
    deterministic(trainer.model)
    trainer.model.losses = mean_losses(trainer.model)
    hook = Gradients(trainer.model)
    trainer.register_hooks([hook])
    trainer.train()
    return hook.kept, trainer


def mean_losses(model):
    original = type(model).losses

    def losses(items):
        parts = [original(model, [item])["loss_mask"] for item in items]
        return {"loss_mask": torch.stack(parts).mean()}

    return losses


@pytest.mark.numeric
def test_accumulated_gradients_equal_those_of_the_whole_batch(tmp_path):
    opts = ("SOLVER.IMS_PER_BATCH", 4, "SOLVER.MAX_ITER", 1, "MODEL_EMA.ENABLED", False)
    whole, _ = first_gradient(tiny_cfg(tmp_path / "a", *opts))
    parts, trainer = first_gradient(tiny_cfg(tmp_path / "b", *opts, "SOLVER.ACCUMULATE_STEPS", 2))
    for name in whole:
        # four float32 terms in another order: 1e-7 of the largest, whatever cancels
        assert (parts[name] - whole[name]).abs().max() <= 1e-5 * whole[name].abs().max()
    assert set(trainer.storage.latest()) >= {"total_loss", "loss_mask"}
    with pytest.raises(InputError, match="ACCUMULATE_STEPS 3"):
        build_trainer(tiny_cfg(tmp_path / "c", *opts, "SOLVER.ACCUMULATE_STEPS", 3))


def test_bfloat16_on_the_cpu(tmp_path):
    cfg = tiny_cfg(tmp_path, "SOLVER.AMP.ENABLED", True, "SOLVER.MAX_ITER", 2)
    trainer = build_trainer(cfg)
    formats = []
    trainer.model.head.register_forward_hook(lambda m, i, o: formats.append(o.dtype))
    trainer.train()
    assert formats == [torch.bfloat16] * 2
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    cfg.SOLVER.AMP.DTYPE = "float16"
    with pytest.raises(InputError, match="float16 needs a GPU"):
        build_trainer(cfg)


@pytest.mark.parametrize("fastest", ["float32", "bfloat16"])
def test_bfloat16_that_is_slow_is_said(tmp_path, monkeypatch, caplog, fastest):
    """The training keeps its format: a measured time may not decide what is computed."""
    monkeypatch.setattr(device, "_fastest_on_this_cpu", lambda: (fastest, "100 against 200"))
    trainer = build_trainer(tiny_cfg(tmp_path, "SOLVER.AMP.ENABLED", True))
    assert trainer._trainer.amp_dtype == torch.bfloat16
    said = "100 against 200): set SOLVER.AMP.ENABLED False" in caplog.text
    assert said == (fastest == "float32")


def test_non_finite_loss_names_itself_and_takes_no_step(tmp_path):
    trainer = build_trainer(tiny_cfg(tmp_path, "MODEL_EMA.ENABLED", False))
    before = trainer.model.head.weight.detach().clone()
    good = trainer.model.losses
    trainer.model.losses = lambda items: {**good(items), "loss_bad": torch.tensor(math.nan)}
    with pytest.raises(FloatingPointError, match="iteration 0: loss_bad is nan"):
        trainer.train()
    assert torch.equal(trainer.model.head.weight, before)


def test_clipping_bounds_the_step(tmp_path):
    cfg = tiny_cfg(
        tmp_path,
        *("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 1e-3),
        *("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model", "SOLVER.MAX_ITER", 1),
        *("MODEL_EMA.ENABLED", False),
    )
    trainer = build_trainer(cfg)
    hook = Gradients(trainer.model)
    trainer.register_hooks([hook])
    trainer.train()
    norm = torch.stack([g.norm() for g in hook.kept.values()]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)
    assert trainer.storage.latest()["grad_norm"][0] > 1e-3


@pytest.mark.slow
def test_two_processes_average_their_gradients_and_resume(tmp_path):
    """DDP over gloo: the gradient is the mean of the shards' gradients, one after the other."""
    test_set = "('synthetic_val:videos=3:length=2:size=48x64',)"
    opts = ["SOLVER.IMS_PER_BATCH", 4, "SOLVER.MAX_ITER", 4, "DATASETS.TEST", test_set]
    done = run_script("--plain", "--num-gpus", 2, tmp_path, *opts)
    assert done.returncode == 0, done.stderr[-3000:]
    stored = [torch.load(tmp_path / f"gradient_{r}.pth", weights_only=True) for r in range(2)]

    trainer = build_trainer(tiny_cfg(tmp_path / "one", *opts))
    model = trainer.model
    make_plain(model)
    batch = next(iter(trainer.data_loader))
    shards = []
    for shard in (batch[:2], batch[2:]):
        model.zero_grad()
        sum(model(shard).values()).backward()
        shards.append({n: p.grad.clone() for n, p in model.named_parameters()})
    for name in shards[0]:
        mean = (shards[0][name] + shards[1][name]) / 2
        assert torch.equal(stored[0][name], stored[1][name])
        torch.testing.assert_close(stored[0][name], mean, rtol=1e-5, atol=1e-7)

    rows = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert any("segm/AP" in row for row in rows), rows
    assert len(checkpoint(tmp_path)["rng"]["ranks"]) == 2
    # resuming and torchrun's way of starting processes
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", str(SCRIPT)]
    opts[3] = 5
    env = {**os.environ, **ENVIRONMENT}
    again = subprocess.run(
        [*command, "--resume", str(tmp_path), *map(str, opts)],
        env=env,
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stderr[-3000:]
    assert checkpoint(tmp_path)["iteration"] == 4


@pytest.mark.gpu
def test_half_precision_with_loss_scaling_on_cuda(tmp_path):
    opts = ("MODEL.DEVICE", "cuda", "SOLVER.AMP.ENABLED", True, "SOLVER.MAX_ITER", 4)
    trainer = build_trainer(tiny_cfg(tmp_path, *opts))
    device = trainer.model.device
    original = trainer.model.losses

    def losses(items):
        for item in items:
            item["image"] = [image.to(device) for image in item["image"]]
            item["instances"] = [i.to(device) for i in item["instances"]]
        return original(items)

    trainer.model.losses = losses
    formats = []
    trainer.model.head.register_forward_hook(lambda m, i, o: formats.append(o.dtype))
    trainer.train()
    assert formats == [torch.float16] * 4
    assert "grad_scaler" in checkpoint(tmp_path)["trainer"]["_trainer"]
