"""The smallest system that trains, for the tests of the engine; as a script, trains it.

python tiny_system.py [--resume] [--kill-at K] [--num-gpus N] OUTPUT [KEY VALUE ...]
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.engine import CallbackHook
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import nn

from vis_projects import get_cfg
from vis_projects.engine import VideoTrainer, run_distributed
from vis_projects.modeling import VideoModel
from vis_projects.structures import FrameResult


@META_ARCH_REGISTRY.register()
class TinySystem(VideoModel):
    """Tells foreground from background with two convolutions, batch norm and dropout."""

    @configurable
    def __init__(self, *, dropout: float = 0.0, **base: Any) -> None:
        super().__init__(**base)
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.drop = nn.Dropout(dropout)
        self.noise = 0.01
        self.head = nn.Conv2d(4, 1, 1)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {**cls.base_config(cfg), "dropout": 0.2}

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.backbone(images.float() / 128 - 1)))[:, 0]

    def losses(self, items):
        images = torch.stack([item["image"][0] for item in items])
        masks = torch.stack([item["instances"][0].gt_masks.tensor.any(0) for item in items])
        logits = self.logits(images)
        target = masks[:, 2::4, 2::4].float()
        noise = torch.rand(()) * self.noise  # a draw of its own, beside dropout's
        return {
            "loss_mask": nn.functional.binary_cross_entropy_with_logits(logits, target),
            "loss_size": (logits.sigmoid().mean() - target.mean() + noise) ** 2,
        }

    def begin(self, info):
        self.size = info.size

    def segment(self, frame, new_masks=None):
        logits = self.logits(frame.image[None])
        mask = nn.functional.interpolate(logits[:, None], self.size)[:, 0] > 0
        return FrameResult.build(mask, torch.tensor([1]), index=frame.index)


def tiny_cfg(output: Path | str, *opts: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "TinySystem"
    cfg.MODEL.DEVICE = "cpu"
    cfg.SEED = 1
    cfg.OUTPUT_DIR = str(output)
    cfg.DATASETS.TRAIN = ("synthetic_train:videos=4:length=4:size=48x64",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN = (0,)
    cfg.SOLVER.OPTIMIZER = "AdamW"
    cfg.SOLVER.BASE_LR = 0.01
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SOLVER.MAX_ITER = 8
    cfg.SOLVER.WARMUP_ITERS = 2
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR"
    cfg.SOLVER.CHECKPOINT_PERIOD = 3
    cfg.MODEL_EMA.ENABLED = True
    cfg.merge_from_list([str(x) for x in opts])
    return cfg


def build_trainer(cfg: CfgNode, resume: bool = False) -> VideoTrainer:
    seed_all_rng(cfg.SEED)
    trainer = VideoTrainer(cfg)
    trainer.resume_or_load(resume)
    return trainer


def go_on(output: str, opts: list[str]) -> None:
    """Continue a training, in a process of its own, on one thread."""
    torch.set_num_threads(1)
    build_trainer(tiny_cfg(output, *opts), resume=True).train()


def make_plain(model: nn.Module) -> None:
    """Switch off what is random in the model."""
    model.drop.p = model.noise = 0.0


def run(args: argparse.Namespace) -> None:
    """One process: train, and write the first gradient to OUTPUT/gradient_RANK.pth."""
    trainer = build_trainer(tiny_cfg(args.output, *args.opts), args.resume)
    model = trainer.checkpointer.model
    if args.plain:
        make_plain(model)

    def after_step(t: Any) -> None:
        if t.iter == args.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if args.plain and t.iter == 0:
            gradients = {n: p.grad for n, p in model.named_parameters()}
            torch.save(gradients, Path(args.output) / f"gradient_{comm.get_rank()}.pth")

    trainer.register_hooks([CallbackHook(after_step=after_step)])
    trainer.train()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--plain", action="store_true", help="nothing random in the model")
    parser.add_argument("--kill-at", type=int, help="die in this iteration")
    parser.add_argument("--num-gpus", type=int, default=1)
    parser.add_argument("opts", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    arguments.num_machines, arguments.machine_rank = 1, 0
    arguments.dist_url = "auto"
    run_distributed(run, arguments)
