"""One optimiser step: mixed precision on any device, accumulation, clipping, checked losses."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..structures import InputError, warn_of_slow_bfloat16
from .random_state import kept_random_state
from .solver import Clip

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def autocast_dtype(cfg: CfgNode, device: torch.device) -> torch.dtype | None:
    """Return the format of ``SOLVER.AMP`` on a device, None where it is off.

    Raises:
        InputError: an unknown format, or float16 on a CPU.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    name = cfg.SOLVER.AMP.DTYPE
    if name == "auto":
        name = "float16" if device.type == "cuda" else "bfloat16"
    if name not in _DTYPES:
        raise InputError(f"SOLVER.AMP.DTYPE {name!r} is unknown: use auto, float16 or bfloat16")
    if name == "float16" and device.type == "cpu":
        raise InputError("SOLVER.AMP.DTYPE float16 needs a GPU: use auto or bfloat16 on a CPU")
    if device.type == "cpu":
        warn_of_slow_bfloat16("SOLVER.AMP.ENABLED False")
    return _DTYPES[name]


class Diverged(InputError, FloatingPointError):
    """A loss or gradient that is no finite number: the options do not suit the data."""


class TrainingStep(TrainerBase):
    """The inner trainer: data, forward, backward, clipping, step, metrics.

    Args:
        model: returns a dict of scalar losses; their sum is minimised.
        amp_dtype: number format of the forward pass, None for float32; float16 scales the loss.
        accumulate: parts that a batch is cut into; their gradients are averaged.
        clip: from ``build_clipping``.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        *,
        amp_dtype: torch.dtype | None = None,
        accumulate: int = 1,
        clip: Clip | None = None,
    ) -> None:
        super().__init__()
        self.model, self.data_loader, self.optimizer = model.train(), data_loader, optimizer
        self.amp_dtype, self.accumulate, self.clip = amp_dtype, accumulate, clip
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.device = self.parameters[0].device
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=amp_dtype == torch.float16 and self.device.type == "cuda"
        )
        self._batches: Any = None

    def run_step(self) -> None:
        """Raises Diverged, naming loss and iteration, before a bad step is taken."""
        started = time.perf_counter()
        if self._batches is None:
            with kept_random_state():  # starting a loader draws a seed: not in a resumed run
                self._batches = iter(self.data_loader)
                batch = next(self._batches)
        else:
            batch = next(self._batches)
        data_time = time.perf_counter() - started
        losses = self._gradients(batch)
        self.after_backward()
        norm = None
        if self.clip is not None:
            self.scaler.unscale_(self.optimizer)
            norm = self.clip(self.parameters)
        self._record(losses, norm, data_time)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _gradients(self, batch: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Leave the gradient of the mean over all parts in the parameters; return mean losses."""
        self.optimizer.zero_grad(set_to_none=True)
        parts = split(batch, self.accumulate)
        means: dict[str, torch.Tensor] = {}
        for number, part in enumerate(parts):
            distributed = isinstance(self.model, DistributedDataParallel)
            more = number + 1 < len(parts)  # ranks exchange gradients with the last part only
            with self.model.no_sync() if distributed and more else nullcontext():
                with torch.autocast(
                    self.device.type, self.amp_dtype, enabled=self.amp_dtype is not None
                ):
                    losses = self.model(part)
                total = sum(losses.values()) / len(parts)
                self.scaler.scale(total).backward()
            for name, loss in losses.items():
                share = loss.detach().float() / len(parts)
                means[name] = means[name] + share if name in means else share
        return means

    def _record(
        self, losses: Mapping[str, torch.Tensor], norm: torch.Tensor | None, data_time: float
    ) -> None:
        """Check the losses and put their means over the ranks into the storage."""
        tensors = [loss.reshape(()).to(self.device) for loss in losses.values()]
        tensors += [] if norm is None else [norm.detach().float().to(self.device)]
        values = torch.stack(tensors).tolist()  # the one synchronisation of a step
        own = dict(zip(losses, values))
        bad = [f"{name} is {value}" for name, value in own.items() if not math.isfinite(value)]
        if bad:
            raise Diverged(f"iteration {self.iter}: {', '.join(bad)}; {self._remedy()}")
        storage = get_event_storage()
        gathered = comm.gather({"losses": own, "data_time": data_time})
        if not comm.is_main_process():
            return
        means = {
            name: sum(rank["losses"][name] for rank in gathered) / len(gathered) for name in own
        }
        storage.put_scalar("data_time", max(rank["data_time"] for rank in gathered))
        storage.put_scalar("total_loss", sum(means.values()))
        for name, value in means.items():
            if len(means) > 1 or name != "total_loss":
                storage.put_scalar(name, value)
        if norm is not None:
            storage.put_scalar("grad_norm", values[-1])

    def _remedy(self) -> str:
        rates = sorted({group["lr"] for group in self.optimizer.param_groups})
        tries = [f"a smaller SOLVER.BASE_LR (the rate was {rates[-1]:.3g})"]
        if self.clip is None:
            tries.append("SOLVER.CLIP_GRADIENTS.ENABLED True")
        if self.amp_dtype is not None:
            tries.append("SOLVER.AMP.ENABLED False")
        return (
            f"try {', '.join(tries)}; the weights of the last checkpoint are good: --resume "
            "continues from there"
        )

    def state_dict(self) -> dict[str, Any]:
        state = {**super().state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.scaler.is_enabled():
            state["grad_scaler"] = self.scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        if self.scaler.is_enabled() and "grad_scaler" in state_dict:
            self.scaler.load_state_dict(state_dict["grad_scaler"])


def split(batch: Sequence[Any], parts: int) -> list[Sequence[Any]]:
    """Cut a batch into equal parts.

    Raises:
        InputError: it cannot be cut equally; their mean would not be the batch's.
    """
    if parts == 1:
        return [batch]
    if len(batch) % parts:
        raise InputError(
            f"SOLVER.ACCUMULATE_STEPS {parts} does not divide the {len(batch)} items of a process: "
            "change it or SOLVER.IMS_PER_BATCH"
        )
    size = len(batch) // parts
    return [batch[i : i + size] for i in range(0, len(batch), size)]
