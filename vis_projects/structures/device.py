"""``MODEL.DEVICE`` and ``MODEL.INFERENCE_DTYPE``: what "auto" is on this machine."""

from __future__ import annotations

import logging
import time
from functools import lru_cache

import torch

from .errors import InputError

logger = logging.getLogger(__name__)

# A CPU takes bfloat16 from this many times float32's speed on (chosen).
GAIN = 1.3


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


def resolve_dtype(name: str, device: str, *, accurate: bool) -> str:
    """Return the number format of networks at test: "auto" is half precision where it pays.

    ``accurate`` says whether the system's scores stay what they are in it; without that it is
    float32 everywhere. CUDA: bfloat16 where the GPU has it, else float16. CPU: bfloat16 if a
    convolution is a good deal faster in it, which is measured once per process; processors that
    have the instructions may still be slower. The choice is logged.
    """
    if name != "auto":
        return name
    kind = torch.device(device).type
    if not accurate:
        chosen, why = "float32", "no measurement shows that this system keeps its score in less"
    elif kind == "cuda":
        chosen, why = ("bfloat16" if torch.cuda.is_bf16_supported() else "float16"), "GPU"
    elif kind == "cpu":
        chosen, why = _fastest_on_this_cpu()
    else:
        chosen, why = "float32", kind
    logger.info("MODEL.INFERENCE_DTYPE auto: %s (%s)", chosen, why)
    return chosen


def warn_of_slow_bfloat16(option: str) -> None:
    """Log a warning if this CPU is slower in bfloat16 than in float32, as those without AMX are.

    A training keeps the format that is asked for: it must not depend on how busy a machine was.
    """
    chosen, why = _fastest_on_this_cpu()
    if chosen == "float32":
        logger.warning("bfloat16 does not pay on this CPU (%s): set %s", why, option)


@lru_cache(maxsize=1)
def _fastest_on_this_cpu() -> tuple[str, str]:
    """bfloat16 or float32, and the measured speeds."""
    if not getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)():
        return "float32", "no bfloat16 instructions"
    speeds = {dtype: _convolution_speed(dtype) for dtype in (torch.float32, torch.bfloat16)}
    single, half = speeds.values()
    chosen = "bfloat16" if half > GAIN * single else "float32"
    return chosen, f"a 3x3 convolution: {half:.0f} GFLOP/s in bfloat16, {single:.0f} in float32"


@torch.no_grad()
def _convolution_speed(dtype: torch.dtype, *, repeats: int = 5) -> float:
    """GFLOP/s of a 3x3 convolution, the best of a few; some milliseconds in all."""
    x, weight = torch.ones(1, 128, 48, 48, dtype=dtype), torch.ones(128, 128, 3, 3, dtype=dtype)
    best = float("inf")
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        torch.nn.functional.conv2d(x, weight, padding=1)
        best = min(best, time.perf_counter() - begin)
    return 2 * 128 * 128 * 9 * 48 * 48 / best / 1e9
