"""``MODEL.DEVICE``: "auto", and devices that this machine does not have."""

from __future__ import annotations

import torch

from .errors import InputError


def resolve_device(name: str) -> str:
    """Return the device to use: "auto" is CUDA where there is some, else the CPU.

    Apple's ``mps`` is used only when it is asked for: not every operation exists there.

    Raises:
        InputError: no such device, or PyTorch has no access to it.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    remedy = "use auto (CUDA where there is some), cpu, cuda, cuda:1 or mps"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise InputError(f"device {name!r} is unknown: {remedy}") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            built = "no GPU is visible" if torch.version.cuda else "this PyTorch is built for CPUs"
            raise InputError(f"device {name}: {built}: {remedy}")
        if (device.index or 0) >= count:
            raise InputError(f"device {name}: this machine has {count}: cuda:0 to cuda:{count - 1}")
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise InputError(f"device mps: not on this machine, or not in this PyTorch: {remedy}")
    elif device.type not in ("cpu", "meta"):
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
            reason = " ".join(str(error).split())[:120]
            raise InputError(f"device {name}: not there ({reason}): {remedy}") from None
    return name
