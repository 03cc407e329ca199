"""The smallest system that trains, for the tests of the engine; as a script, trains it.

python tiny_system.py OUTPUT [--resume] [--kill-at K] [KEY VALUE ...]
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.engine import CallbackHook
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.env import seed_all_rng
from torch import nn

from vis_projects import get_cfg
from vis_projects.engine import VideoTrainer
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
        noise = torch.rand(()) * 0.01  # a draw of its own, beside dropout's
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


def main(argv: list[str]) -> None:
    output, *rest = argv
    resume = "--resume" in rest
    kill_at = int(rest[rest.index("--kill-at") + 1]) if "--kill-at" in rest else None
    opts = [a for i, a in enumerate(rest) if not a.startswith("--") and rest[i - 1] != "--kill-at"]
    trainer = build_trainer(tiny_cfg(output, *opts), resume)

    def kill(t: Any) -> None:
        if t.iter == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    trainer.register_hooks([CallbackHook(after_step=kill)])
    trainer.train()


if __name__ == "__main__":
    main(sys.argv[1:])
