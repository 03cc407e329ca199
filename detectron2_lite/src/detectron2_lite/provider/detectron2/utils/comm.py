"""Talking between processes; everything works without a process group, as a world of one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist

_LOCAL_PROCESS_GROUP: dist.ProcessGroup | None = None
_OBJECT_GROUP: tuple[Any, Any] | None = None  # (default group it was made for, gloo group)


def _running() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    return dist.get_world_size() if _running() else 1


def get_rank() -> int:
    return dist.get_rank() if _running() else 0


def is_main_process() -> bool:
    return get_rank() == 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Create the group of the processes on this machine; every process must call it once.

    ``launch`` does so. Raises AssertionError if it exists or the world is not a multiple.
    """
    global _LOCAL_PROCESS_GROUP
    assert _LOCAL_PROCESS_GROUP is None, "the local process group exists already"
    world = get_world_size()
    assert world % num_workers_per_machine == 0, (
        f"{world} processes cannot be split into machines of {num_workers_per_machine}"
    )
    machine = get_rank() // num_workers_per_machine
    for i in range(world // num_workers_per_machine):
        ranks = range(i * num_workers_per_machine, (i + 1) * num_workers_per_machine)
        group = dist.new_group(list(ranks))
        if i == machine:
            _LOCAL_PROCESS_GROUP = group


def get_local_process_group() -> dist.ProcessGroup:
    assert _LOCAL_PROCESS_GROUP is not None, (
        "no local process group: start with detectron2.engine.launch "
        "or call create_local_process_group"
    )
    return _LOCAL_PROCESS_GROUP


def get_local_rank() -> int:
    """Return the rank among the processes of this machine."""
    return dist.get_rank(group=get_local_process_group()) if _running() else 0


def get_local_size() -> int:
    """Return the number of processes on this machine."""
    return dist.get_world_size(group=get_local_process_group()) if _running() else 1


def synchronize() -> None:
    """Wait until all processes are here."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == dist.Backend.NCCL:
        dist.barrier(device_ids=[torch.cuda.current_device()])
    else:
        dist.barrier()


def _object_group():
    """Return a group that carries Python objects over the CPU."""
    global _OBJECT_GROUP
    world = dist.group.WORLD
    if dist.get_backend() != dist.Backend.NCCL:
        return world
    if _OBJECT_GROUP is None or _OBJECT_GROUP[0] is not world:
        _OBJECT_GROUP = (world, dist.new_group(backend="gloo"))
    return _OBJECT_GROUP[1]


def all_gather(data: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Return the picklable ``data`` of all processes, in order of rank, on every process."""
    if get_world_size() == 1:
        return [data]
    group = group or _object_group()
    world = dist.get_world_size(group)
    if world == 1:
        return [data]
    out: list[Any] = [None] * world
    dist.all_gather_object(out, data, group=group)
    return out


def gather(data: Any, dst: int = 0, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Return the picklable ``data`` of all processes on rank ``dst``, and [] elsewhere."""
    if get_world_size() == 1:
        return [data]
    group = group or _object_group()
    world = dist.get_world_size(group)
    if world == 1:
        return [data]
    if dist.get_rank(group) != dst:
        dist.gather_object(data, None, dst=dst, group=group)
        return []
    out: list[Any] = [None] * world
    dist.gather_object(data, out, dst=dst, group=group)
    return out


def shared_random_seed() -> int:
    """Return a random number that is the same on all processes (they must all call it)."""
    return all_gather(np.random.randint(2**31))[0]


def reduce_dict(input_dict: dict[str, torch.Tensor], average: bool = True) -> dict:
    """Return the mean (or sum) over processes of scalar tensors, on rank 0; elsewhere undefined."""
    world = get_world_size()
    if world < 2:
        return input_dict
    with torch.no_grad():
        names = sorted(input_dict)
        values = torch.stack([input_dict[k] for k in names], dim=0)
        dist.reduce(values, dst=0)
        if get_rank() == 0 and average:
            values /= world
        return dict(zip(names, values))
