"""What a system gives out of itself to run elsewhere: one network with its inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass(frozen=True)
class ExportedNetwork:
    """A network of a system, ready to be traced.

    Attributes:
        name: what files are called after; "" for the only one.
        module: takes the inputs in order and returns a tuple of the outputs.
        inputs: examples by name.
        outputs: names in order.
        dynamic: of inputs whose first dimension may vary, the dimension's name.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, torch.Tensor]
    outputs: Sequence[str]
    dynamic: Mapping[str, str] = field(default_factory=dict)


class Function(nn.Module):
    """A function over networks as a module.

    Args:
        function: of ``networks`` and the inputs; returns the outputs as a tuple.
        networks: its parts, whose weights travel with it.
    """

    def __init__(
        self, function: Callable[..., tuple[torch.Tensor, ...]], **networks: nn.Module
    ) -> None:
        super().__init__()
        self.function = function
        for name, network in networks.items():
            self.add_module(name, network)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.function(self, *inputs)
