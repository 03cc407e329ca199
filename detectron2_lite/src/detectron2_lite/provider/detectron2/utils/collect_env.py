"""A table of versions and devices, for logs and reports."""

from __future__ import annotations

import importlib
import os
import platform
import sys

import numpy as np
import torch
import torchvision
from tabulate import tabulate

__all__ = ["collect_env_info"]


def _version(name: str) -> str:
    try:
        return str(getattr(importlib.import_module(name), "__version__", "installed"))
    except ImportError:
        return "not found"


def collect_env_info() -> str:
    """Return a text table of the versions of what is used and of the GPUs."""
    import detectron2

    has_gpu = torch.cuda.is_available()
    rows = [
        ("platform", f"{sys.platform} {platform.machine()}"),
        ("Python", sys.version.replace("\n", "")),
        ("numpy", np.__version__),
        ("detectron2", f"{detectron2.__version__} @{os.path.dirname(detectron2.__file__)}"),
        ("PyTorch", f"{torch.__version__} @{os.path.dirname(torch.__file__)}"),
        ("PyTorch debug build", torch.version.debug),
        ("GPU available", "Yes" if has_gpu else "No"),
    ]
    if has_gpu:
        devices: dict[str, list[str]] = {}
        for index in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(index)
            name = f"{torch.cuda.get_device_name(index)} (arch={major}.{minor})"
            devices.setdefault(name, []).append(str(index))
        rows += [(f"GPU {','.join(ids)}", name) for name, ids in devices.items()]
        rows.append(("CUDA of PyTorch", torch.version.cuda))
    rows.append(
        ("torchvision", f"{torchvision.__version__} @{os.path.dirname(torchvision.__file__)}")
    )
    rows += [
        (name, _version(module))
        for name, module in (
            ("Pillow", "PIL"),
            ("fvcore", "fvcore"),
            ("iopath", "iopath"),
            ("cv2", "cv2"),
        )
    ]
    for variable in ("DETECTRON2_DATASETS", "DETECTRON2_PROVIDER"):
        rows.append((f"${variable}", os.environ.get(variable, "not set")))
    return tabulate([(name, str(value)) for name, value in rows])


if __name__ == "__main__":
    print(collect_env_info())
