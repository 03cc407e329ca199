"""Any image classifier of the timm library, with ImageNet weights from an installed data package
(``pretrained_trunk``), else from timm's own source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ...structures import InputError
from ...weights.own_weights import bring_own_weights
from ...weights.reading import first_rank_first, reason
from .pretrained_trunk import PACKAGES, how_to_get, pixel_statistics

IMAGENET_CLASSES = 1000
_IMAGENET_PIXELS = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def classifier_pixels(name: str) -> tuple[Sequence[float], Sequence[float]]:
    """Return mean and deviation of the RGB pixels (0 .. 255) that a classifier reads."""
    return pixel_statistics(name) or _IMAGENET_PIXELS


def build_timm_classifier(
    name: str, *, num_classes: int = IMAGENET_CLASSES, pretrained: bool = False, size: int = 0
) -> nn.Module:
    """Return a classifier, normalised RGB images to logits.

    Args:
        pretrained: it brings ImageNet's weights along, unless ``MODEL.WEIGHTS`` hold it; a head of
            another size than ImageNet's starts anew.
        size: of the images, for networks (ViT) that are built for one; 0: the network's own.

    Raises:
        InputError: timm is missing, does not know the name, or there are no weights to be had.
    """
    try:
        import timm
    except ImportError:
        raise InputError(f"classifier {name}: timm is not installed (pip install timm)") from None
    if name.split(".")[0] not in timm.list_models():
        close = timm.list_models(f"*{name[:4]}*")[:5]
        hint = f"; timm has {', '.join(close)}" if close else ""
        raise InputError(f"classifier {name!r} is no network of timm{hint}")
    net = _create(name, num_classes, size)
    fresh = set() if num_classes == IMAGENET_CLASSES else _head_tensors(net)

    def fill() -> None:
        state = first_rank_first(lambda: _imagenet_state(name, size))
        own = net.state_dict()
        kept = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
        missing = [k for k in own if k not in kept and not k.endswith("num_batches_tracked")]
        if lacking := [k for k in missing if k not in fresh]:
            raise InputError(f"classifier {name}: its ImageNet weights lack {lacking[0]}")
        net.load_state_dict({**own, **kept}, strict=True)

    if pretrained:
        bring_own_weights(net, fill, fresh=fresh)
    return net


def _head_tensors(net: nn.Module) -> set[str]:
    """Return the names of the tensors that give the classes; distilled networks have two heads."""
    found = net.get_classifier()
    heads = {id(m) for m in (found if isinstance(found, (tuple, list)) else (found,))}
    modules = [(name, m) for name, m in net.named_modules() if id(m) in heads]
    return {f"{name}.{tensor}" for name, m in modules for tensor in m.state_dict()}


def _imagenet_state(name: str, size: int) -> dict[str, Tensor]:
    package = PACKAGES.get(name.split(".")[0])
    file = package.file() if package is not None else None
    if file is not None:
        return package.state_dict(file)
    return _create(name, IMAGENET_CLASSES, size, pretrained=True).state_dict()


def _create(name: str, num_classes: int, size: int, pretrained: bool = False) -> nn.Module:
    import timm

    options: dict[str, Any] = {"num_classes": num_classes, "pretrained": pretrained}
    try:
        try:
            return timm.create_model(name, **options, **({"img_size": size} if size else {}))
        except TypeError:  # a network that takes any size
            return timm.create_model(name, **options)
    except Exception as error:  # whatever the hub, the network or the file system raise
        hint = f"; {how_to_get(name)}" if pretrained else ""
        raise InputError(f"classifier {name}: {reason(error)}{hint}") from None
