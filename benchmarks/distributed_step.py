"""One distributed training step: python -m benchmarks.distributed_step [--device cpu].

Processes are one per GPU (NCCL), or one on the CPU (gloo). The gradient has to be the mean of those
that the processes would have alone. Part of gpu_check.sh.
"""

from __future__ import annotations

import argparse
import sys
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

CONFIG = "configs/srnet/quickstart_synthetic.yaml"


def step(rank: int, world: int, device: str, meeting: str) -> None:
    """Train one step alone and one distributed; compare the gradients.

    ``meeting`` is the address of a file by which the processes find each other.
    """
    from detectron2.modeling import build_model

    from vis_projects.config import load_config
    from vis_projects.data import build_train_loader

    place = f"cuda:{rank}" if device == "cuda" else "cpu"
    if device == "cuda":
        torch.cuda.set_device(rank)
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=world)
    cfg = load_config(
        CONFIG,
        ["MODEL.DEVICE", place, "MODEL.WEIGHTS", "", "DATALOADER.NUM_WORKERS", "0"]
        + ["SOLVER.IMS_PER_BATCH", str(2 * world)],
    )
    torch.manual_seed(0)
    model = build_model(cfg).train()
    batch = next(iter(build_train_loader(cfg)))

    def gradients(forward: torch.nn.Module) -> torch.Tensor:
        model.zero_grad(set_to_none=True)
        torch.manual_seed(1)
        sum(forward(batch).values()).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    alone = gradients(model)
    dist.all_reduce(alone)
    alone /= world
    wrapped = DistributedDataParallel(model, device_ids=[rank] if device == "cuda" else None)
    together = gradients(wrapped)
    difference = float((together - alone).norm() / alone.norm())
    if rank == 0:
        print(f"{world} processes, {dist.get_backend()}: gradients differ by {difference:.1e}")
    dist.destroy_process_group()
    if difference > 1e-3:
        raise SystemExit(f"gradients differ by {difference:.1e} of their norm")


def main(argv: list[str]) -> int:
    """Start the processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    device = parser.parse_args(argv).device
    world = torch.cuda.device_count() if device == "cuda" else 1
    if world == 0:
        print("no CUDA device", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(step, (world, device, f"file://{folder}/meeting"), nprocs=world)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
