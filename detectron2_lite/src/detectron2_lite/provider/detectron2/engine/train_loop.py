"""The training loop: hooks, the bare loop, and the ordinary and mixed-precision step."""

from __future__ import annotations

import concurrent.futures
import logging
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import detectron2.utils.comm as comm
import torch
from detectron2.utils.events import EventStorage, get_event_storage
from torch import nn

__all__ = ["AMPTrainer", "HookBase", "SimpleTrainer", "TrainerBase"]


class HookBase:
    """Something that happens around the steps of a trainer.

    ``trainer`` is a weak proxy, set when the hook is registered.
    """

    trainer: TrainerBase

    def before_train(self) -> None:
        """Called once, before the first iteration."""

    def after_train(self) -> None:
        """Called once at the end, also after an exception."""

    def before_step(self) -> None:
        """Called before each step."""

    def after_backward(self) -> None:
        """Called after the backward pass of each step."""

    def after_step(self) -> None:
        """Called after each step."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold; hooks without state return {}."""
        return {}


class TrainerBase:
    """A loop over iterations that calls hooks; subclasses define ``run_step``.

    Attributes: ``iter`` (current iteration, ``max_iter`` after a finished training),
    ``start_iter``, ``max_iter``, ``storage`` (an EventStorage while training).
    """

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter: int = 0
        self.start_iter: int = 0
        self.max_iter: int
        self.storage: EventStorage

    def register_hooks(self, hooks: Iterable[HookBase | None]) -> None:
        """Append hooks (None is skipped); they are called in the order of registration."""
        proxy = weakref.proxy(self)  # a hook that owned its trainer would make a cycle
        for hook in hooks:
            if hook is None:
                continue
            assert isinstance(hook, HookBase), f"{hook!r} is not a HookBase"
            hook.trainer = proxy
            self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the iterations ``start_iter .. max_iter - 1``."""
        logger = logging.getLogger(__name__)
        logger.info("Starting training from iteration %d", start_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                while self.iter < max_iter:
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    self.iter += 1
            except Exception:
                logger.exception("Exception during training:")
                raise
            finally:
                self.after_train()

    def before_train(self) -> None:
        for hook in self._hooks:
            hook.before_train()

    def after_train(self) -> None:
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.after_train()

    def before_step(self) -> None:
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.before_step()

    def after_backward(self) -> None:
        for hook in self._hooks:
            hook.after_backward()

    def after_step(self) -> None:
        for hook in self._hooks:
            hook.after_step()

    def run_step(self) -> None:
        """One iteration."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return ``{"iteration", "hooks"}``; hooks are named by their class."""
        state: dict[str, Any] = {"iteration": self.iter}
        hooks: dict[str, Any] = {}
        for hook in self._hooks:
            own = hook.state_dict()
            name = type(hook).__qualname__
            if own and name not in hooks:  # two hooks of one class: only the first has state
                hooks[name] = own
        if hooks:
            state["hooks"] = hooks
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned; unknown hooks are reported and skipped."""
        self.iter = state_dict["iteration"]
        for name, state in state_dict.get("hooks", {}).items():
            match = next((h for h in self._hooks if type(h).__qualname__ == name), None)
            if match is None:
                logging.getLogger(__name__).warning("No hook %s: its state is ignored", name)
                continue
            match.load_state_dict(state)


class SimpleTrainer(TrainerBase):
    """One model, one optimiser, one loader; the model returns a loss or a dict of losses.

    The constructor sets the model to training mode. Set ``zero_grad_before_forward`` to clear
    gradients before, not after, the forward pass. Metrics are averaged over ranks every
    ``gather_metric_period`` iterations.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        async_write_metrics: bool = False,
    ) -> None:
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward
        self.async_write_metrics = async_write_metrics
        self._data_loader_iter_obj: Any = None
        self._executor = concurrent.futures.ThreadPoolExecutor(max_workers=1)

    @property
    def _data_loader_iter(self) -> Any:
        if self._data_loader_iter_obj is None:
            self._data_loader_iter_obj = iter(self.data_loader)
        return self._data_loader_iter_obj

    def reset_data_loader(self, data_loader_builder: Callable[[], Iterable]) -> None:
        """Replace the loader; the old one is released first, with its workers."""
        self.data_loader = self._data_loader_iter_obj = None
        self.data_loader = data_loader_builder()

    def _next_batch(self) -> tuple[Any, float]:
        started = time.perf_counter()
        batch = next(self._data_loader_iter)
        return batch, time.perf_counter() - started

    def run_step(self) -> None:
        assert self.model.training, f"{type(self).__name__}: the model was set to evaluation mode"
        batch, data_time = self._next_batch()
        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        total, losses = _total_loss(self.model(batch))
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        total.backward()
        self.after_backward()
        self._record(losses, data_time)
        self.optimizer.step()

    def _record(self, losses: Mapping[str, torch.Tensor], data_time: float) -> None:
        if self.async_write_metrics:
            self._executor.submit(self._write_metrics, losses, data_time, iter=self.iter)
        else:
            self._write_metrics(losses, data_time)

    def _write_metrics(
        self,
        loss_dict: Mapping[str, torch.Tensor],
        data_time: float,
        prefix: str = "",
        iter: int | None = None,
    ) -> None:
        at = self.iter if iter is None else iter
        if (at + 1) % self.gather_metric_period == 0:
            try:
                self.write_metrics(loss_dict, data_time, at, prefix)
            except Exception:
                logging.getLogger(__name__).exception("Exception in writing metrics:")
                raise

    @staticmethod
    def write_metrics(
        loss_dict: Mapping[str, torch.Tensor], data_time: float, cur_iter: int, prefix: str = ""
    ) -> None:
        """Average the losses over ranks and put them, and the data time, in the storage.

        Raises FloatingPointError if the total is not finite.
        """
        values = _to_floats(loss_dict)
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=cur_iter)
        gathered = comm.gather({**values, "data_time": data_time})
        if not comm.is_main_process():
            return
        storage.put_scalar(
            "data_time", max(g.pop("data_time") for g in gathered), cur_iter=cur_iter
        )
        means = {name: sum(g[name] for g in gathered) / len(gathered) for name in gathered[0]}
        total = sum(means.values())
        if not torch.isfinite(torch.tensor(total, dtype=torch.float64)):
            raise FloatingPointError(
                f"Loss became infinite or NaN at iteration={cur_iter}! losses = {means}"
            )
        storage.put_scalar(f"{prefix}total_loss", total, cur_iter=cur_iter)
        if len(means) > 1:
            for name, value in means.items():
                storage.put_scalar(name, value, cur_iter=cur_iter)

    def after_train(self) -> None:
        super().after_train()
        self._executor.shutdown(wait=True)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])


class AMPTrainer(SimpleTrainer):
    """``SimpleTrainer`` with automatic mixed precision; the model must be on CUDA."""

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        grad_scaler: Any = None,
        precision: torch.dtype = torch.float16,
        log_grad_scaler: bool = False,
        async_write_metrics: bool = False,
    ) -> None:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            single_device = len(model.device_ids or ()) <= 1
            assert single_device, "AMPTrainer needs one device per process"
        super().__init__(
            model,
            data_loader,
            optimizer,
            gather_metric_period,
            zero_grad_before_forward,
            async_write_metrics,
        )
        self.grad_scaler = torch.amp.GradScaler("cuda") if grad_scaler is None else grad_scaler
        self.precision = precision
        self.log_grad_scaler = log_grad_scaler

    def run_step(self) -> None:
        assert self.model.training, "AMPTrainer: the model was set to evaluation mode"
        assert torch.cuda.is_available(), "AMPTrainer needs CUDA"
        batch, data_time = self._next_batch()
        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        with torch.autocast("cuda", dtype=self.precision):
            total, losses = _total_loss(self.model(batch))
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        self.grad_scaler.scale(total).backward()
        if self.log_grad_scaler:
            self.storage.put_scalar("grad_scaler", self.grad_scaler.get_scale())
        self.after_backward()
        self._record(losses, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def _total_loss(
    output: torch.Tensor | Mapping[str, torch.Tensor],
) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
    if isinstance(output, torch.Tensor):
        return output, {"total_loss": output}
    return sum(output.values()), output


def _to_floats(losses: Mapping[str, torch.Tensor]) -> dict[str, float]:
    # one transfer for all losses instead of one synchronisation each
    stacked = torch.stack([loss.detach().float().reshape(()) for loss in losses.values()])
    return dict(zip(losses, stacked.tolist()))
