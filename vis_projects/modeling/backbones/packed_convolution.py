"""Convolutions at test on a CPU: norms folded, weights in oneDNN's own layout, ReLU fused.

PyTorch's eager convolution brings its weights into oneDNN's layout in every call, takes a slow path
for small inputs on one thread, and leaves norm, sum and ReLU to passes of their own over memory.
Here the weights are folded and packed once, and again when they change. ``pack(model)`` sets it up;
what is trained, compiled, traced, on another device or in a format without such kernels runs as it
is written, with the same result up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone import resnet
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck

_NORMS = (FrozenBatchNorm2d, nn.BatchNorm2d)
_switched_off = False
_SIZES = 6  # of the input for which weights are kept: the levels of a pyramid, and one more


class PackedConv:
    """A convolution and the batch norm after it, with what oneDNN makes of their weights.

    Args:
        conv: with zero padding.
        norm: a batch norm with statistics of its own, or None.
        inputs: of the convolution that are read; the others' share is computed elsewhere.
        bias: whether the convolution's bias is added.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        norm: nn.Module | None = None,
        *,
        inputs: slice = slice(None),
        bias: bool = True,
    ) -> None:
        self.conv, self.inputs, self.bias = conv, inputs, bias
        self.norm = None if isinstance(norm, nn.Identity) else norm
        self._packed: dict[Any, tuple[tuple[int, ...], Tensor, Tensor | None]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": {}}  # no layout of this machine in a file or a copy

    def takes(self, x: Tensor) -> bool:
        """Tell whether there are kernels for this input, here and now."""
        conv = self.conv
        return (
            not (torch.compiler.is_compiling() or torch.jit.is_tracing())
            and type(x) is Tensor
            and x.device.type == "cpu"
            and not (conv.training or torch.is_grad_enabled())
            and not _switched_off
            and _has_kernels(_format(x))
            and conv.weight.dtype == torch.float32
            and type(conv.weight.data) is Tensor
            and conv.padding_mode == "zeros"
            and not isinstance(conv.padding, str)
            and x.dim() == 4
            and x.numel() > 0
        )

    def __call__(
        self, x: Tensor, *, relu: bool | float = False, add: Tensor | None = None
    ) -> Tensor:
        """Convolve, normalise, add ``add`` (which is overwritten), apply ReLU if asked for.

        A number for ``relu`` is ReLU's upper limit; not together with ``add``.
        """
        if not self.takes(x):
            return self._plain(x, relu=relu, add=add)
        x = x.to(_format(x))
        weight, bias = self._weights(x)
        conv = self.conv
        geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
        if add is None:
            kind, limits = "relu" if relu else "none", []
            if relu is not True and relu:
                kind, limits = "hardtanh", [0.0, float(relu)]
            return torch.ops.mkldnn._convolution_pointwise(
                x, weight, bias, *geometry, kind, limits, ""
            )
        if add.dtype != x.dtype or not add.is_contiguous(memory_format=torch.channels_last):
            add = add.to(x.dtype).contiguous(memory_format=torch.channels_last)
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            add, x, weight, bias, *geometry, "add", 1.0, "relu" if relu else None, [], ""
        )

    def _plain(self, x: Tensor, *, relu: bool | float, add: Tensor | None) -> Tensor:
        conv = self.conv
        bias = conv.bias if self.bias else None
        x = nn.Conv2d._conv_forward(conv, x, conv.weight[:, self.inputs], bias)
        if self.norm is not None:
            x = self.norm(x)
        if add is not None:
            x = x + add
        if relu is not True and relu:
            return x.clamp(0, relu)
        return F.relu(x) if relu else x

    def _weights(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Folded weights and bias in the input's number format, packed for its size: in the layout
        of another size oneDNN may take ten times as long."""
        conv, norm = self.conv, self.norm
        sources = [conv.weight, conv.bias]
        if norm is not None:
            sources += [norm.weight, norm.bias, norm.running_mean, norm.running_var]
        versions = tuple(v for t in sources if t is not None for v in (t.data_ptr(), t._version))
        key = (x.dtype, *x.shape[-2:])
        known = self._packed.get(key)
        if known is None or known[0] != versions:
            weight, bias = _folded(conv, norm)
            weight, bias = weight[:, self.inputs], bias if self.bias else None
            packed = torch._C._nn.mkldnn_reorder_conv2d_weight(
                weight.to(x.dtype).to_mkldnn(),
                list(conv.padding),
                list(conv.stride),
                list(conv.dilation),
                conv.groups,
                list(x.shape),
            )
            known = versions, packed, None if bias is None else bias.to(x.dtype)
            if len(self._packed) == _SIZES:
                del self._packed[next(iter(self._packed))]
            self._packed[key] = known
        return known[1:]


def _folded(conv: nn.Conv2d, norm: nn.Module | None) -> tuple[Tensor, Tensor | None]:
    weight, bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
    if norm is None:
        return weight, bias
    with torch.no_grad():
        scale = torch.rsqrt(norm.running_var + norm.eps)
        shift = -norm.running_mean * scale
        if norm.weight is not None:
            scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
        if bias is not None:
            shift = shift + bias * scale
        return weight * scale[:, None, None, None], shift


def _has_kernels(dtype: torch.dtype) -> bool:
    if dtype == torch.bfloat16:  # oneDNN refuses to pack it for a CPU without the instructions
        return getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)()
    return dtype == torch.float32


def _format(x: Tensor) -> torch.dtype:
    """The number format in which a convolution would run."""
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return x.dtype


class _Conv:
    """``forward`` of a convolution module, Detectron2's with norm and activation included."""

    def __init__(self, conv: nn.Conv2d) -> None:
        norm = getattr(conv, "norm", None)
        self.conv = conv
        self.packed = PackedConv(conv, norm if _folds(norm) else None)

    def __call__(self, x: Tensor) -> Tensor:
        conv = self.conv
        if not self.packed.takes(x):
            return type(conv).forward(conv, x)
        activation, norm = getattr(conv, "activation", None), getattr(conv, "norm", None)
        outside = norm is not None and self.packed.norm is None
        fuse = not outside and activation in (F.relu, F.relu_, torch.relu)
        y = self.packed(x, relu=fuse)
        y = norm(y) if outside else y
        return y if fuse or activation is None else activation(y)


class _Block:
    """``forward`` of a residual block: a chain of convolutions beside a shortcut."""

    def __init__(self, block: nn.Module) -> None:
        self.block = block
        self.chain = [PackedConv(*pair) for pair in _chain(block)]
        shortcut = _shortcut(block)
        self.shortcut = None if shortcut is None else PackedConv(*shortcut)

    def __call__(self, x: Tensor) -> Tensor:
        if not self.chain[0].takes(x):
            return type(self.block).forward(self.block, x)
        y = x
        for conv in self.chain[:-1]:
            y = conv(y, relu=True)
        # The sum is written over the shortcut: a map that others read needs a copy.
        side = x.clone(memory_format=torch.channels_last) if self.shortcut is None else None
        return self.chain[-1](y, relu=True, add=self.shortcut(x) if side is None else side)


class _Stem:
    """``forward`` of Detectron2's stem."""

    def __init__(self, stem: nn.Module) -> None:
        self.stem = stem
        self.conv = PackedConv(stem.conv1, stem.conv1.norm)

    def __call__(self, x: Tensor) -> Tensor:
        if not self.conv.takes(x):
            return type(self.stem).forward(self.stem, x)
        return F.max_pool2d(self.conv(x, relu=True), kernel_size=3, stride=2, padding=1)


def _folds(norm: nn.Module | None) -> bool:
    return norm is None or (
        isinstance(norm, (*_NORMS, nn.Identity)) and getattr(norm, "running_var", 0) is not None
    )


def _chain(block: nn.Module) -> list[tuple[nn.Conv2d, nn.Module | None]]:
    """Convolutions of a block's long side, each with its norm."""
    convs = [getattr(block, f"conv{i}") for i in (1, 2, 3) if hasattr(block, f"conv{i}")]
    if isinstance(block, (BasicBlock, Bottleneck)):
        return [(conv, getattr(block, f"bn{i}")) for i, conv in enumerate(convs, 1)]
    return [(conv, conv.norm) for conv in convs]


def _shortcut(block: nn.Module) -> tuple[nn.Conv2d, nn.Module | None] | None:
    if isinstance(block, (BasicBlock, Bottleneck)):
        return None if block.downsample is None else tuple(block.downsample)
    return None if block.shortcut is None else (block.shortcut, block.shortcut.norm)


_BLOCKS = (resnet.BasicBlock, resnet.BottleneckBlock, BasicBlock, Bottleneck)


def _pairs_of(module: nn.Module) -> Sequence[tuple[nn.Conv2d, nn.Module | None]]:
    shortcut = _shortcut(module)
    return [*_chain(module), *([] if shortcut is None else [shortcut])]


def pack(model: nn.Module) -> None:
    """Let a model's convolutions run packed wherever they can; once is enough.

    State dict, parameters and modules stay what they are.
    """
    if not available():
        return
    for module in model.modules():
        if "forward" in module.__dict__:
            continue
        if type(module) in _BLOCKS and all(_folds(norm) for _, norm in _pairs_of(module)):
            module.forward = _Block(module)
        elif type(module) is resnet.BasicStem and _folds(module.conv1.norm):
            module.forward = _Stem(module)
        elif isinstance(module, nn.Conv2d) and _is_plain(type(module)):
            module.forward = _Conv(module)


def _is_plain(kind: type) -> bool:
    """Only classes whose forward is known; a subclass with one of its own keeps it."""
    from detectron2.layers import Conv2d

    return kind.forward in (nn.Conv2d.forward, Conv2d.forward)


def available() -> bool:
    """Tell whether this PyTorch has oneDNN with the operators used here."""
    return torch.backends.mkldnn.is_available() and all(
        (
            hasattr(torch.ops.mkldnn, "_convolution_pointwise"),
            hasattr(torch.ops.mkldnn, "_convolution_pointwise_"),
            hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight"),
        )
    )


@contextmanager
def plain_convolutions() -> Any:
    """Run everything as it is written (comparisons and benchmarks)."""
    global _switched_off
    before, _switched_off = _switched_off, True
    try:
        yield
    finally:
        _switched_off = before
