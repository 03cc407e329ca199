"""An exponential moving average of a model's parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class ModelAverage:
    """avg <- d avg + (1 - d) parameter at each update; buffers are taken as they are.

    Args:
        model: the model, not wrapped for several processes.
        decay: d at most.
        warmup: d of update n (from 0) is at most (1 + n) / (10 + n).
    """

    def __init__(self, model: nn.Module, *, decay: float = 0.999, warmup: bool = True) -> None:
        self.model = model
        self.decay, self.warmup = decay, warmup
        self.reset()

    def reset(self) -> None:
        """Start over from the model's present weights."""
        self.updates = 0
        self.average = {n: p.detach().clone() for n, p in self._trained()}

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((n, p) for n, p in self.model.named_parameters() if p.requires_grad)

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's present weights into the average."""
        decay = self.decay
        if self.warmup:
            decay = min(decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, parameter in self._trained():
            self.average[name].lerp_(parameter.to(self.average[name].dtype), 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model carries the averaged weights inside the block."""
        with torch.no_grad():
            kept = {n: p.detach().clone() for n, p in self._trained()}
            for name, parameter in self._trained():
                parameter.copy_(self.average[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._trained():
                    parameter.copy_(kept[name])

    def model_state(self) -> dict[str, torch.Tensor]:
        """Return a copy of the model's state dict, in its stored form, with averaged parameters."""
        with self.applied():
            return {n: v.detach().clone() for n, v in self.model.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore; ValueError if the parameters are others."""
        if set(state["average"]) != set(self.average):
            raise ValueError("the stored average belongs to other parameters")
        self.updates = int(state["updates"])
        for name, value in state["average"].items():
            self.average[name].copy_(value)
