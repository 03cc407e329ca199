"""What an augmentation is: a random choice of a transform, given the inputs it asks for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import Transform, TransformList

__all__ = [
    "AugInput",
    "Augmentation",
    "AugmentationList",
    "StandardAugInput",
    "TransformGen",
    "apply_augmentations",
    "apply_transform_gens",
]


def _check_image(image: Any) -> None:
    assert isinstance(image, np.ndarray), f"an image must be an array, got {type(image)}"
    is_integer = np.issubdtype(image.dtype, np.integer)
    assert not is_integer or image.dtype == np.uint8, f"integer images are uint8, got {image.dtype}"
    assert image.ndim in (2, 3), f"an image has 2 or 3 dimensions, got {image.ndim}"


class Augmentation:
    """Base class. ``get_transform`` draws a Transform.

    The names of its parameters are attributes of the AugInput (``image``, ``boxes``,
    ``sem_seg``, or whatever a custom input has). Calling the augmentation draws a transform,
    applies it to the input in place, and returns it.
    """

    input_args: tuple[str, ...] | None = None

    def _init(self, params: dict[str, Any] | None = None) -> None:
        """Set the constructor's arguments, given as ``locals()``, as attributes."""
        for name, value in (params or {}).items():
            if name != "self" and not name.startswith("_"):
                setattr(self, name, value)

    def get_transform(self, *args: Any) -> Transform:
        """Return the transform to apply to inputs like ``args``."""
        raise NotImplementedError

    def _input_names(self) -> tuple[str, ...]:
        if self.input_args is None:
            names = []
            for parameter in inspect.signature(self.get_transform).parameters.values():
                if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                    raise TypeError(
                        f"{type(self).__name__}.get_transform may not take *args or **kwargs"
                    )
                if parameter.default is parameter.empty:
                    names.append(parameter.name)
            self.input_args = tuple(names)
        return self.input_args

    def __call__(self, aug_input: AugInput) -> Transform:
        names = self._input_names()
        for name in names:
            if not hasattr(aug_input, name):
                raise AttributeError(
                    f"{type(self).__name__}.get_transform needs {name!r}, "
                    f"which {type(aug_input).__name__} does not have"
                )
        transform = self.get_transform(*(getattr(aug_input, name) for name in names))
        assert isinstance(transform, Transform), (
            f"{type(self).__name__}.get_transform must return a Transform, got {transform!r}"
        )
        aug_input.transform(transform)
        return transform

    def _rand_range(
        self, low: float = 1.0, high: float | None = None, size: Any = None
    ) -> float | np.ndarray:
        """Uniform numbers in [low, high), or [0, low) without ``high``; numpy's global state."""
        if high is None:
            low, high = 0, low
        return np.random.uniform(low, high, [] if size is None else size)

    def __repr__(self) -> str:
        shown = []
        for name, parameter in inspect.signature(type(self).__init__).parameters.items():
            if name == "self" or not hasattr(self, name):
                continue
            value = getattr(self, name)
            if value is not parameter.default:
                shown.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    __str__ = __repr__


class _Fixed(Augmentation):
    """Always the same transform."""

    def __init__(self, transform: Transform) -> None:
        self.tfm = transform

    def get_transform(self) -> Transform:
        return self.tfm

    def __repr__(self) -> str:
        return repr(self.tfm)


def _as_augmentation(item: Augmentation | Transform) -> Augmentation:
    if isinstance(item, Augmentation):
        return item
    assert isinstance(item, Transform), f"{item!r} is neither an Augmentation nor a Transform"
    return _Fixed(item)


class AugmentationList(Augmentation):
    """Augmentations (or transforms) one after the other; each sees the result of the previous."""

    def __init__(self, augs: Sequence[Augmentation | Transform]) -> None:
        self.augs = [_as_augmentation(item) for item in augs]

    def __call__(self, aug_input: AugInput) -> TransformList:
        return TransformList([augmentation(aug_input) for augmentation in self.augs])

    def __repr__(self) -> str:
        return f"AugmentationList[{', '.join(map(repr, self.augs))}]"

    __str__ = __repr__


class AugInput:
    """What augmentations read and change: an image (H, W[, C]), uint8 or float, optional boxes
    (N, 4) XYXY and an optional label map ``sem_seg`` (H, W)."""

    def __init__(
        self,
        image: np.ndarray,
        *,
        boxes: np.ndarray | None = None,
        sem_seg: np.ndarray | None = None,
    ) -> None:
        _check_image(image)
        self.image = image
        self.boxes = boxes
        self.sem_seg = sem_seg

    def transform(self, tfm: Transform) -> None:
        """Apply a transform to everything, in place."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)

    def apply_augmentations(
        self, augmentations: Sequence[Augmentation | Transform]
    ) -> TransformList:
        """Apply several, return what was drawn."""
        return AugmentationList(augmentations)(self)


def apply_augmentations(
    augmentations: Sequence[Augmentation | Transform], inputs: AugInput | np.ndarray
) -> tuple[Any, TransformList]:
    """Augment an AugInput, or an image alone; return (same kind of input, transforms)."""
    if isinstance(inputs, np.ndarray):
        wrapped = AugInput(inputs)
        transforms = wrapped.apply_augmentations(augmentations)
        return wrapped.image, transforms
    return inputs, inputs.apply_augmentations(augmentations)


# names of earlier versions
TransformGen = Augmentation
StandardAugInput = AugInput
apply_transform_gens: Callable = apply_augmentations
