"""Starting one process or many: Detectron2's ``launch``, or under ``torchrun``."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import launch
from detectron2.utils import comm

from ..structures import InputError

# Ranks may wait for the slowest one through a whole evaluation.
TIMEOUT = timedelta(days=7)


def run_distributed(main: Callable[[Any], Any], args: Any) -> Any:
    """Run ``main(args)`` in every process.

    Under ``torchrun`` (the variables RANK, WORLD_SIZE, LOCAL_RANK are set) this process is one of
    them; otherwise ``--num-gpus`` processes are started on this machine, on CPUs with gloo where
    there is no CUDA.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return _join(main, args)
    processes = args.num_gpus * args.num_machines
    if processes <= 1:
        return main(args)
    _check(args)
    try:
        return launch(
            main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
            timeout=TIMEOUT,
        )
    except KeyboardInterrupt:
        _stop_children()
        raise


def _check(args: Any) -> None:
    if args.num_machines > 1 and args.dist_url == "auto":
        raise InputError(
            "--dist-url auto finds a port of this machine only: for --num-machines "
            f"{args.num_machines} name the first machine, tcp://HOST:PORT"
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else args.num_gpus
    if args.num_gpus > count:
        raise InputError(f"--num-gpus {args.num_gpus}: this machine has {count}")


def _stop_children() -> None:
    """Hand a signal that reached this process alone on, and wait until the others have saved."""
    children = multiprocessing.active_children()
    for child in children:
        if child.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGINT)
    for child in children:
        child.join(timeout=600)


def _join(main: Callable[[Any], Any], args: Any) -> Any:
    """Be one of ``torchrun``'s processes."""
    if int(os.environ["WORLD_SIZE"]) == 1:
        return main(args)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo", timeout=TIMEOUT)
    try:
        comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
        return main(args)
    finally:
        dist.destroy_process_group()
