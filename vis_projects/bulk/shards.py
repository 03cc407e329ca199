"""Which part of the job list this process does: ``--shard``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from ..structures import InputError


def parse_shard(text: str, environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Return (number from 0, count) of "I/N" (I from 1), "slurm" or "torchrun".

    "slurm" takes the array's task (``SLURM_ARRAY_TASK_ID`` among ``SLURM_ARRAY_TASK_COUNT``), or
    the process of ``srun`` (``SLURM_PROCID`` of ``SLURM_NTASKS``), or both together.

    Raises:
        InputError: none of these, or not under SLURM or torchrun.
    """
    if not text:
        return 0, 1
    if text == "torchrun":
        return _from(environment, "RANK", "WORLD_SIZE", text)
    if text == "slurm":
        return _slurm(environment)
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(
            f"--shard {text}: give 1/4 to 4/4 for the parts of four, or slurm, or torchrun"
        )
    return int(match[1]) - 1, int(match[2])


def _slurm(environment: Mapping[str, str]) -> tuple[int, int]:
    array, processes = (0, 1), (0, 1)
    if "SLURM_ARRAY_TASK_ID" in environment:
        number, count = _from(environment, "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "slurm")
        first = int(environment.get("SLURM_ARRAY_TASK_MIN", 0))
        step = int(environment.get("SLURM_ARRAY_TASK_STEP", 1) or 1)
        array = ((number - first) // step, count)
    several = "SLURM_PROCID" in environment and int(environment.get("SLURM_NTASKS", 1)) > 1
    if several or "SLURM_ARRAY_TASK_ID" not in environment:
        processes = _from(environment, "SLURM_PROCID", "SLURM_NTASKS", "slurm")
    return array[0] * processes[1] + processes[0], array[1] * processes[1]


def _from(environment: Mapping[str, str], number: str, count: str, kind: str) -> tuple[int, int]:
    try:
        return int(environment[number]), int(environment[count])
    except (KeyError, ValueError):
        raise InputError(
            f"--shard {kind}: {number} and {count} are not set: this process was not started by "
            f"{'SLURM' if kind == 'slurm' else 'torchrun'}; give --shard I/N"
        ) from None
