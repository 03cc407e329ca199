"""Thin wrappers around torch: convolutions with norm and activation, losses of empty input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BatchNorm2d = nn.BatchNorm2d
ConvTranspose2d = nn.ConvTranspose2d
Linear = nn.Linear
interpolate = F.interpolate


def shapes_to_tensor(x: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Turn a list of sizes into an integer tensor."""
    return torch.as_tensor(x, device=device)


def move_device_like(src: Tensor, dst: Tensor) -> Tensor:
    """Return ``src`` on the device of ``dst``."""
    return src.to(dst.device)


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """``torch.cat`` that returns a single tensor as it is."""
    assert isinstance(tensors, (list, tuple))
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def nonzero_tuple(x: Tensor) -> tuple[Tensor, ...]:
    """Indices of the non-zero elements, one tensor per dimension (at least one)."""
    return torch.nonzero(x.unsqueeze(0) if x.dim() == 0 else x, as_tuple=True)


def cross_entropy(input: Tensor, target: Tensor, *, reduction: str = "mean", **kwargs) -> Tensor:
    """``F.cross_entropy`` whose mean over no element is 0 with a gradient, not NaN."""
    if target.numel() == 0 and reduction == "mean":
        return input.sum() * 0.0
    return F.cross_entropy(input, target, reduction=reduction, **kwargs)


class Conv2d(nn.Conv2d):
    """A convolution followed by an optional norm (key ``norm``) and an optional activation."""

    def __init__(self, *args, norm: nn.Module | None = None, activation=None, **kwargs):
        """``args``, ``kwargs``: those of ``torch.nn.Conv2d``; ``activation``: a callable."""
        super().__init__(*args, **kwargs)
        self.norm = norm
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() == 0 and self.training and isinstance(self.norm, nn.SyncBatchNorm):
            raise AssertionError("SyncBatchNorm does not support empty inputs")
        x = super().forward(x)
        if self.norm is not None:
            x = self.norm(x)
        if self.activation is not None:
            x = self.activation(x)
        return x
