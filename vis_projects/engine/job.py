"""One training or evaluation, from the config file on, in every process that takes part."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm

from ..config import find_config, load_config
from ..data.class_check import check_test_classes, classes_key, get_option
from ..plug_ins import import_packages
from ..structures import InputError
from ..structures.errors import PartlyDone
from ..weights import build_for_test, last_weights
from .distributed import run_distributed
from .inference import evaluate
from .run_log import announce, set_up_loggers
from .showcase import write_scores
from .trainer import VideoTrainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What a command line says; it travels to the processes that do it.

    Attributes:
        imports: packages of the user's to import first.
        num_gpus: processes on this machine; 0 is one on the CPU.
        overwrite: a new training may take the place of an earlier one in its OUTPUT_DIR.
        results: folder of ``vis run`` that is evaluated instead of a model.
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
    overwrite: bool = False
    results: str = ""

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
    elif not job.eval_only:
        refuse_to_replace(Path(cfg.OUTPUT_DIR), resume=job.resume, overwrite=job.overwrite)
    if job.results:
        cfg.TEST.RESUME = False  # everything is there already
    cfg.freeze()
    known = argparse.Namespace(**{f.name: getattr(job, f.name) for f in fields(job)})
    known.config_file = str(find_config(job.config_file))
    set_up_loggers(cfg.OUTPUT_DIR, comm.get_rank())
    default_setup(cfg, known)
    announce(cfg, job.config_file)
    return cfg


def refuse_to_replace(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Keep an earlier training in ``folder`` unless somebody said what to do with it.

    With ``overwrite`` it is no longer continued; its files go as new ones take their names.

    Raises:
        InputError: there is one.
    """
    last = folder / "last_checkpoint"
    if resume or not last.is_file() or comm.get_local_rank() != 0:
        return
    if overwrite:
        last.unlink()
        return
    name = last.read_text().strip()
    state = "a finished" if name == "model_final.pth" else "an interrupted"
    raise InputError(
        f"OUTPUT_DIR {folder} holds {state} training ({name}): --resume continues it, "
        "--overwrite replaces it, or give another OUTPUT_DIR"
    )


def _in_each_process(job: Job) -> Mapping[str, Any] | None:
    import_packages(job.imports)
    cfg = set_up(job)
    if job.eval_only and job.resume:  # chosen before there was a log
        logger.info("--resume: loading from %s", cfg.MODEL.WEIGHTS or "nowhere")
    if job.eval_only:
        key = "" if job.results else classes_key(cfg)
        if key and get_option(cfg, key):  # before any weights are read
            check_test_classes(cfg.DATASETS.TEST, get_option(cfg, key), key)
        model = None if job.results else build_for_test(cfg)[0]
        failed: dict[str, str] = {}
        try:
            scores = evaluate(cfg, model, failed=failed, results=job.results)
        except KeyboardInterrupt as error:
            tail = "TEST.RESUME True takes the videos that are done"
            raise type(error)(f"{error or 'Ctrl-C'}; {tail}") from None
        if comm.is_main_process():
            write_scores(cfg, scores)
        if failed and comm.is_main_process():
            listed = "; ".join(f"{video}: {reason}" for video, reason in failed.items())
            raise PartlyDone(f"{len(failed)} video{'s' * (len(failed) > 1)} failed: {listed}")
        return scores
    trainer = VideoTrainer(cfg)
    trainer.resume_or_load(resume=job.resume)
    return trainer.train()
