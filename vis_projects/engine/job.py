"""One training or evaluation, from the config file on, in every process that takes part."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..config import find_config, load_config
from ..plug_ins import import_packages
from ..structures import InputError
from ..structures.errors import PartlyDone
from ..weights import build_for_test, last_weights
from .distributed import run_distributed
from .inference import evaluate
from .showcase import write_scores
from .trainer import VideoTrainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What a command line says; it travels to the processes that do it.

    Attributes:
        imports: packages of the user's to import first.
        num_gpus: processes on this machine; 0 is one on the CPU.
    """

    config_file: str
    opts: tuple[str, ...] = ()
    resume: bool = False
    eval_only: bool = False
    imports: tuple[str, ...] = ()
    num_gpus: int = 1
    num_machines: int = 1
    machine_rank: int = 0
    dist_url: str = "auto"

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Job:
        """Take from a parsed command line what there is of it."""
        given = {f.name: getattr(args, f.name) for f in fields(cls) if hasattr(args, f.name)}
        for name in ("opts", "imports"):
            given[name] = tuple(given.get(name, ()))
        return cls(**given)


def run_job(job: Job) -> Mapping[str, Any] | None:
    """Start the processes of a job and do it; returns the scores where one process does all.

    Raises:
        InputError: options, data or weights that do not fit; from any process.
    """
    return run_distributed(_in_each_process, job)


def set_up(job: Job) -> CfgNode:
    """Read the config and set up OUTPUT_DIR, logs and seeds."""
    on_cpu = ["MODEL.DEVICE", "cpu"] if job.num_gpus == 0 else []
    cfg = load_config(job.config_file, [*job.opts, *on_cpu])
    if cfg.MODEL.DEVICE.startswith("cuda:") and comm.get_world_size() > 1:
        raise InputError(
            f"MODEL.DEVICE {cfg.MODEL.DEVICE}: each process takes its own GPU: use auto or cuda"
        )
    if job.eval_only and job.resume:
        cfg.MODEL.WEIGHTS = last_weights(cfg) or cfg.MODEL.WEIGHTS
    cfg.freeze()
    known = argparse.Namespace(**{f.name: getattr(job, f.name) for f in fields(job)})
    known.config_file = str(find_config(job.config_file))
    default_setup(cfg, known)
    setup_logger(cfg.OUTPUT_DIR, comm.get_rank(), name="vis_projects", abbrev_name="vis")
    return cfg


def _in_each_process(job: Job) -> Mapping[str, Any] | None:
    import_packages(job.imports)
    cfg = set_up(job)
    if job.eval_only:
        model, _ = build_for_test(cfg)
        failed: dict[str, str] = {}
        scores = evaluate(cfg, model, failed=failed)
        if comm.is_main_process():
            write_scores(cfg, scores)
        if failed and comm.is_main_process():
            listed = "; ".join(f"{video}: {reason}" for video, reason in failed.items())
            raise PartlyDone(f"{len(failed)} video{'s' * (len(failed) > 1)} failed: {listed}")
        return scores
    trainer = VideoTrainer(cfg)
    trainer.resume_or_load(resume=job.resume)
    return trainer.train()
