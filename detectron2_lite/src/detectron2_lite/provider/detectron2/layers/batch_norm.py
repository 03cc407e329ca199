"""Normalisation layers: frozen, channel-first layer norm, synchronised, and the choice by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from detectron2.utils import comm
from fvcore.nn.distributed import differentiable_all_reduce
from torch import Tensor, nn
from torch.nn import functional as F


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with fixed statistics and fixed affine; an identity until weights are loaded.

    All four vectors are buffers, so that no optimizer sees them. The counter
    ``num_batches_tracked`` exists but holds nothing, hence it is no key of the state dict.
    """

    _version = 3

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features) - eps)
        self.register_buffer("num_batches_tracked", None)

    def forward(self, x: Tensor) -> Tensor:
        if not x.requires_grad:
            return F.batch_norm(
                x,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                training=False,
                eps=self.eps,
            )
        # F.batch_norm would keep what the gradients of weight and bias need.
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.to(x.dtype)[:, None, None] + shift.to(x.dtype)[:, None, None]

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args, **kwargs):
        version = local_metadata.get("version", None)
        if version is None or version < 2:
            # Weights whose statistics were folded into the affine part carry no statistics.
            state_dict.setdefault(prefix + "running_mean", torch.zeros_like(self.running_mean))
            state_dict.setdefault(prefix + "running_var", torch.ones_like(self.running_var))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args, **kwargs)

    def __repr__(self) -> str:
        return f"FrozenBatchNorm2d(num_features={self.num_features}, eps={self.eps})"

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Replace every batch norm below ``module`` by a frozen one; returns the (new) module."""
        if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            frozen = cls(module.num_features, module.eps)
            if module.affine:
                frozen.weight.data = module.weight.data.clone().detach()
                frozen.bias.data = module.bias.data.clone().detach()
            frozen.running_mean.data = module.running_mean.data
            frozen.running_var.data = module.running_var.data
            frozen.num_batches_tracked = module.num_batches_tracked
            return frozen
        for name, child in module.named_children():
            replacement = cls.convert_frozen_batchnorm(child)
            if replacement is not child:
                module.add_module(name, replacement)
        return module


class LayerNorm(nn.Module):
    """Layer norm over the channels of (N, C, H, W) at each position."""

    def __init__(self, normalized_shape: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(normalized_shape))
        self.bias = nn.Parameter(torch.zeros(normalized_shape))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        x = centred * torch.rsqrt(centred.square().mean(1, keepdim=True) + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class NaiveSyncBatchNorm(nn.BatchNorm2d):
    """Batch norm over all processes by an all-reduce of means, on any device and back end.

    ``stats_mode=""`` gives every process equal weight and forbids an empty batch; ``"N"`` weights a
    process by its batch size, zero included. Without a process group, or in evaluation, it is
    ``BatchNorm2d``. With one, the running variance follows the biased variance.
    """

    def __init__(self, *args, stats_mode: str = "", **kwargs):
        super().__init__(*args, **kwargs)
        assert stats_mode in ("", "N"), f"stats_mode must be '' or 'N', not {stats_mode!r}"
        self._stats_mode = stats_mode

    def forward(self, input: Tensor) -> Tensor:
        if comm.get_world_size() == 1 or not self.training:
            return super().forward(input)
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        mean, square, momentum = self._moments(x)
        var = square - mean * mean
        scale = self.weight * torch.rsqrt(var + self.eps)
        shift = self.bias - mean * scale
        with torch.no_grad():
            self.running_mean += momentum * (mean - self.running_mean)
            self.running_var += momentum * (var - self.running_var)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        return (x * scale[:, None, None] + shift[:, None, None]).to(input.dtype)

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor, float | Tensor]:
        """Mean, mean of squares (C,) over all processes, and the momentum to use for them."""
        batch, channels = x.shape[:2]
        if self._stats_mode == "":
            assert batch > 0, 'NaiveSyncBatchNorm does not take an empty batch: use stats_mode="N"'
            local = torch.cat([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))])
            mean, square = (differentiable_all_reduce(local) / comm.get_world_size()).split(
                channels
            )
            return mean, square, self.momentum
        if batch == 0:
            # The sum keeps the graph, so that every process joins the backward all-reduce.
            local = x.new_zeros(2 * channels + 1) + x.sum()
        else:
            sums = torch.cat([x.mean((0, 2, 3)), x.square().mean((0, 2, 3)), x.new_ones(1)])
            local = sums * batch
        total = differentiable_all_reduce(local)
        count = total[-1].detach()
        mean, square, _ = (total / count.clamp(min=1)).split(channels)
        # Nothing anywhere: leave the running statistics alone.
        return mean, square, self.momentum * count.clamp(max=1)


def get_norm(norm: str | Callable[[int], nn.Module] | None, out_channels: int) -> nn.Module | None:
    """Build the norm layer of that name, or call ``norm``; None and "" mean no norm.

    Names: BN, SyncBN, nnSyncBN, FrozenBN, GN (32 groups), LN, naiveSyncBN, naiveSyncBN_N.
    Raises KeyError for another name.
    """
    if norm is None or norm == "":
        return None
    if not isinstance(norm, str):
        return norm(out_channels)
    builders = {
        "BN": nn.BatchNorm2d,
        "SyncBN": nn.SyncBatchNorm,
        "nnSyncBN": nn.SyncBatchNorm,
        "FrozenBN": FrozenBatchNorm2d,
        "GN": lambda channels: nn.GroupNorm(32, channels),
        "LN": LayerNorm,
        "naiveSyncBN": NaiveSyncBatchNorm,
        "naiveSyncBN_N": lambda channels: NaiveSyncBatchNorm(channels, stats_mode="N"),
    }
    if norm not in builders:
        raise KeyError(f"unknown norm {norm!r}: choose one of {sorted(builders)} or ''")
    return builders[norm](out_channels)
