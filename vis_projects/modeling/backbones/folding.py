"""Batch norm folded into the convolution before it, for networks whose code is not ours."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .folded_convolution import FoldedConv
from .packed_convolution import plain_convolutions


def fold_batch_norms(net: nn.Module, example: Tensor) -> nn.Module:
    """Return a copy in evaluation mode with batch norms folded away where that changes nothing.

    Which convolution feeds which norm is observed on ``example``. A norm that also activates (timm)
    leaves its activation behind, ReLU and ReLU6 to the convolution. Parameters of the copy need no
    gradient.

    Args:
        net: any network; its forward may return a tensor or a list of tensors.
        example: an input.
    """
    folded = copy.deepcopy(net).eval().requires_grad_(False)
    names = {m: n for n, m in folded.named_modules()}
    for conv, norm in _pairs(folded, example):
        fused = fuse_conv_bn_eval(conv, norm)
        activation = _activation(norm)
        own = activation if type(activation) in (nn.ReLU, nn.ReLU6) else None
        _replace(folded, names[conv], FoldedConv(fused, own))
        _replace(folded, names[norm], nn.Identity() if own else activation)
    return folded


@torch.no_grad()
def _pairs(net: nn.Module, example: Tensor) -> list[tuple[nn.Conv2d, nn.Module]]:
    """Return convolutions with the norm that alone reads them."""
    made: dict[int, tuple[nn.Module, Tensor]] = {}  # tensors are kept, so that ids stay unique
    reads: dict[nn.Module, list[nn.Module]] = {}
    calls: dict[nn.Module, int] = {}

    def before(module: nn.Module, inputs: tuple) -> None:
        for x in inputs:
            if isinstance(x, Tensor) and id(x) in made:
                reads.setdefault(made[id(x)][0], []).append(module)

    def after(module: nn.Module, inputs: tuple, output: object) -> None:
        if isinstance(module, nn.Conv2d) and isinstance(output, Tensor):
            made[id(output)] = (module, output)
        calls[module] = calls.get(module, 0) + 1

    leaves = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))]
    hooks = [m.register_forward_pre_hook(before) for m in leaves]
    hooks += [m.register_forward_hook(after) for m in leaves]
    net(example)
    for hook in hooks:
        hook.remove()
    return [
        (conv, readers[0])
        for conv, readers in reads.items()
        if len(readers) == 1
        and isinstance(readers[0], nn.BatchNorm2d)
        and calls[conv] == calls[readers[0]] == 1
    ]


def _activation(norm: nn.Module) -> nn.Module:
    parts = [norm._modules[n] for n in ("drop", "act") if n in norm._modules]
    parts = [p for p in parts if not isinstance(p, nn.Identity)]
    return nn.Sequential(*parts) if len(parts) > 1 else parts[0] if parts else nn.Identity()


def _replace(root: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, new)


class _Found(Exception):
    """All maps are there."""


def producers(net: nn.Module, example: Tensor) -> list[nn.Module] | None:
    """Return the modules whose outputs are the maps that a network returns; None unless each map
    is the output of one."""
    made: dict[int, nn.Module] = {}

    def after(module: nn.Module, inputs: tuple, output: object) -> None:
        if isinstance(output, Tensor):
            made[id(output)] = module
            kept.append(output)  # ids stay unique

    kept: list[Tensor] = []
    hooks = [m.register_forward_hook(after) for m in net.modules()]
    with torch.no_grad(), plain_convolutions():  # weights are packed for the size that comes first
        maps = net(example)
    for hook in hooks:
        hook.remove()
    found = [made.get(id(x)) for x in maps]
    return None if None in found or len({*found}) < len(found) else found


def outputs_of(net: nn.Module, modules: list[nn.Module], x: Tensor) -> list[Tensor]:
    """Return the outputs of modules of a network; what comes after the last is not computed."""
    found: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        found[module] = output
        if len(found) == len(modules):
            raise _Found

    hooks = [m.register_forward_hook(keep) for m in modules]
    try:
        net(x)
    except _Found:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return [found[m] for m in modules]
