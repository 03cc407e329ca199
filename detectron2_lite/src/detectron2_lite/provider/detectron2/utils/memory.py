"""Going on when the GPU's memory is exhausted."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch

__all__ = ["retry_if_cuda_oom"]


def _on_cpu(value):
    if isinstance(value, torch.Tensor) and value.is_cuda:
        return value.to(device="cpu")
    return value


def retry_if_cuda_oom(func: Callable) -> Callable:
    """Return ``func`` that, out of CUDA memory, empties the cache, then tries the CPU.

    For the last attempt CUDA tensors among the arguments are copied to the CPU, where the result
    stays; ``func`` must be free of side effects.
    """

    @functools.wraps(func)
    def wrapped(*args, **kwargs):
        try:
            return func(*args, **kwargs)
        except torch.cuda.OutOfMemoryError:
            pass
        torch.cuda.empty_cache()
        try:
            return func(*args, **kwargs)
        except torch.cuda.OutOfMemoryError:
            pass
        name = getattr(func, "__name__", str(func))
        logging.getLogger(__name__).info("CUDA memory is exhausted: %s continues on the CPU", name)
        return func(*map(_on_cpu, args), **{k: _on_cpu(v) for k, v in kwargs.items()})

    return wrapped
