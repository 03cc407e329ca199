"""Starting one process or many: Detectron2's ``launch``, or under ``torchrun``."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import launch
from detectron2.utils import comm

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
    return launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
        timeout=TIMEOUT,
    )


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
