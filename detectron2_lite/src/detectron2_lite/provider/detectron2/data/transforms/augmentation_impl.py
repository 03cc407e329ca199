"""Random augmentations. All draw from numpy's global generator."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from fvcore.transforms.transform import (
    BlendTransform,
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    PadTransform,
    Transform,
    TransformList,
    VFlipTransform,
)
from PIL import Image

from .augmentation import Augmentation, _as_augmentation
from .transform import ExtentTransform, ResizeTransform, RotationTransform

__all__ = [
    "FixedSizeCrop",
    "MinIoURandomCrop",
    "RandomApply",
    "RandomBrightness",
    "RandomContrast",
    "RandomCrop",
    "RandomExtent",
    "RandomFlip",
    "RandomLighting",
    "RandomRotation",
    "RandomSaturation",
    "Resize",
    "ResizeScale",
    "ResizeShortestEdge",
]


class RandomApply(Augmentation):
    """Apply an augmentation or a transform with probability ``prob``."""

    def __init__(self, tfm_or_aug: Augmentation | Transform, prob: float = 0.5) -> None:
        assert 0.0 <= prob <= 1.0, f"prob must lie in [0, 1], got {prob}"
        self.aug = _as_augmentation(tfm_or_aug)
        self.prob = prob

    def __call__(self, aug_input: object) -> Transform:
        return self.aug(aug_input) if self._rand_range() < self.prob else NoOpTransform()


class RandomFlip(Augmentation):
    """Flip horizontally or vertically with probability ``prob``."""

    def __init__(
        self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False
    ) -> None:
        if horizontal == vertical:
            raise ValueError("RandomFlip: exactly one of horizontal and vertical must be set")
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        if self._rand_range() >= self.prob:
            return NoOpTransform()
        return HFlipTransform(width) if self.horizontal else VFlipTransform(height)


class Resize(Augmentation):
    """Resize to a fixed (h, w); an integer means a square."""

    def __init__(self, shape: int | Sequence[int], interp: int = Image.BILINEAR) -> None:
        shape = (shape, shape) if isinstance(shape, int) else tuple(shape)
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        return ResizeTransform(*image.shape[:2], *self.shape, self.interp)


class ResizeShortestEdge(Augmentation):
    """Scale the short edge to a drawn length, or less, so that the long edge is <= ``max_size``.

    ``sample_style`` "choice" draws one of the lengths, "range" an integer between two of them,
    both included. A drawn length of 0 leaves the image as it is.
    """

    def __init__(
        self,
        short_edge_length: int | Sequence[int],
        max_size: int = sys.maxsize,
        sample_style: str = "range",
        interp: int = Image.BILINEAR,
    ) -> None:
        assert sample_style in ("range", "choice"), f"unknown sample_style {sample_style!r}"
        if isinstance(short_edge_length, int):
            short_edge_length = (short_edge_length, short_edge_length)
        self.is_range = sample_style == "range"
        if self.is_range:
            assert len(short_edge_length) == 2, (
                f"sample_style 'range' needs two lengths, got {short_edge_length}"
            )
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        if self.is_range:
            low, high = self.short_edge_length
            size = np.random.randint(low, high + 1)
        else:
            size = np.random.choice(self.short_edge_length)
        if size == 0:
            return NoOpTransform()
        new_h, new_w = self.get_output_shape(height, width, int(size), self.max_size)
        return ResizeTransform(height, width, new_h, new_w, self.interp)

    @staticmethod
    def get_output_shape(
        oldh: int, oldw: int, short_edge_length: int, max_size: int
    ) -> tuple[int, int]:
        """Return (height, width) after resizing."""
        scale = short_edge_length * 1.0 / min(oldh, oldw)
        new_h, new_w = oldh * scale, oldw * scale
        if oldh < oldw:
            new_h = short_edge_length
        else:
            new_w = short_edge_length
        longest = max(new_h, new_w)
        if longest > max_size:
            shrink = max_size * 1.0 / longest
            new_h, new_w = new_h * shrink, new_w * shrink
        return int(new_h + 0.5), int(new_w + 0.5)


class ResizeScale(Augmentation):
    """Fit the image into the target size times a factor from [min_scale, max_scale)."""

    def __init__(
        self,
        min_scale: float,
        max_scale: float,
        target_height: int,
        target_width: int,
        interp: int = Image.BILINEAR,
    ) -> None:
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        factor = np.random.uniform(self.min_scale, self.max_scale)
        scale = min(self.target_height * factor / height, self.target_width * factor / width)
        new_h, new_w = int(round(height * scale)), int(round(width * scale))
        return ResizeTransform(height, width, new_h, new_w, self.interp)


class RandomRotation(Augmentation):
    """Rotate by a drawn angle in degrees, around ``center`` in fractions of (width, height).

    With "range", ``angle`` is (low, high) and ``center`` a pair of corners of the region to draw
    from; with "choice" both list the candidates.
    """

    def __init__(
        self,
        angle: float | Sequence[float],
        expand: bool = True,
        center: Sequence[Sequence[float]] | None = None,
        sample_style: str = "range",
        interp: int | None = None,
    ) -> None:
        assert sample_style in ("range", "choice"), f"unknown sample_style {sample_style!r}"
        self.is_range = sample_style == "range"
        if isinstance(angle, (int, float)):
            angle = (angle, angle)
        if center is not None and isinstance(center[0], (int, float)):
            center = (center, center)
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        center = None
        if self.is_range:
            angle = np.random.uniform(self.angle[0], self.angle[1])
            if self.center is not None:
                (x0, y0), (x1, y1) = self.center
                center = (np.random.uniform(x0, x1), np.random.uniform(y0, y1))
        else:
            angle = np.random.choice(self.angle)
            if self.center is not None:
                center = self.center[np.random.choice(len(self.center))]
        if center is not None:
            center = (width * center[0], height * center[1])
        if angle % 360 == 0:
            return NoOpTransform()
        return RotationTransform(height, width, angle, self.expand, center, self.interp)


class FixedSizeCrop(Augmentation):
    """Crop a random window of ``crop_size`` (h, w); with ``pad`` smaller images are padded."""

    def __init__(
        self,
        crop_size: tuple[int, int],
        pad: bool = True,
        pad_value: float = 128.0,
        seg_pad_value: int = 255,
    ) -> None:
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> TransformList:
        size = np.asarray(image.shape[:2])
        target = np.asarray(self.crop_size)
        room = np.maximum(size - target, 0)
        y0, x0 = np.round(room * np.random.uniform(0.0, 1.0)).astype(int)
        height, width = np.minimum(size, target)
        transforms: list[Transform] = [CropTransform(x0, y0, width, height, size[1], size[0])]
        if self.pad:
            missing_h, missing_w = np.maximum(target - size, 0)
            transforms.append(
                PadTransform(
                    0,
                    0,
                    missing_w,
                    missing_h,
                    width,
                    height,
                    self.pad_value,
                    self.seg_pad_value,
                )
            )
        return TransformList(transforms)


class RandomCrop(Augmentation):
    """Crop a random window.

    ``crop_type``: "relative" (fractions h, w of the image), "relative_range" (fractions drawn
    between ``crop_size`` and 1), "absolute" (pixels), "absolute_range" (pixels drawn between
    the two numbers, for either side).
    """

    def __init__(self, crop_type: str, crop_size: Sequence[float]) -> None:
        known = ("relative_range", "relative", "absolute", "absolute_range")
        assert crop_type in known, f"unknown crop_type {crop_type!r}; one of {known}"
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        crop_h, crop_w = self.get_crop_size((height, width))
        assert height >= crop_h and width >= crop_w, f"{self} does not fit into {image.shape}"
        y0 = np.random.randint(height - crop_h + 1)
        x0 = np.random.randint(width - crop_w + 1)
        return CropTransform(x0, y0, crop_w, crop_h)

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Draw (height, width) of the window for an image of (height, width)."""
        height, width = image_size
        if self.crop_type == "relative":
            ratio_h, ratio_w = self.crop_size
            return int(height * ratio_h + 0.5), int(width * ratio_w + 0.5)
        if self.crop_type == "relative_range":
            low = np.asarray(self.crop_size, dtype=np.float32)
            ratio_h, ratio_w = low + np.random.rand(2) * (1 - low)
            return int(height * ratio_h + 0.5), int(width * ratio_w + 0.5)
        if self.crop_type == "absolute":
            return min(self.crop_size[0], height), min(self.crop_size[1], width)
        low, high = self.crop_size
        assert low <= high, f"absolute_range needs low <= high, got {self.crop_size}"
        crop_h = np.random.randint(min(height, low), min(height, high) + 1)
        crop_w = np.random.randint(min(width, low), min(width, high) + 1)
        return crop_h, crop_w


class RandomExtent(Augmentation):
    """Take a window of a random size (times the image's, from ``scale_range``), whose centre is
    moved by up to half of ``shift_range`` (x, y) times the image's size."""

    def __init__(self, scale_range: tuple[float, float], shift_range: tuple[float, float]) -> None:
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        scale = np.random.uniform(*self.scale_range)
        center_x = width * (0.5 + self.shift_range[0] * (np.random.rand() - 0.5))
        center_y = height * (0.5 + self.shift_range[1] * (np.random.rand() - 0.5))
        half_w, half_h = 0.5 * width * scale, 0.5 * height * scale
        return ExtentTransform(
            src_rect=(center_x - half_w, center_y - half_h, center_x + half_w, center_y + half_h),
            output_size=(int(2 * half_h), int(2 * half_w)),
        )


class _RandomIntensity(Augmentation):
    """Base of the colour augmentations: a factor from [intensity_min, intensity_max)."""

    def __init__(self, intensity_min: float, intensity_max: float) -> None:
        self._init(locals())

    def _blend(self, towards: np.ndarray | float) -> BlendTransform:
        factor = np.random.uniform(self.intensity_min, self.intensity_max)
        return BlendTransform(src_image=towards, src_weight=1 - factor, dst_weight=factor)


class RandomContrast(_RandomIntensity):
    """Blend with the mean: a factor below 1 reduces contrast."""

    def get_transform(self, image: np.ndarray) -> Transform:
        return self._blend(image.mean())


class RandomBrightness(_RandomIntensity):
    """Blend with black: a factor below 1 darkens."""

    def get_transform(self, image: np.ndarray) -> Transform:
        return self._blend(0)


class RandomSaturation(_RandomIntensity):
    """Blend with the grey image: a factor below 1 reduces saturation. The image is RGB."""

    def get_transform(self, image: np.ndarray) -> Transform:
        assert image.shape[-1] == 3, "RandomSaturation works on RGB images"
        return self._blend(image.dot([0.299, 0.587, 0.114])[:, :, None])


class RandomLighting(Augmentation):
    """Add a random mixture of the principal colour components of ImageNet (AlexNet, 4.1)."""

    def __init__(self, scale: float) -> None:
        self._init(locals())
        self.eigen_vecs = np.array(
            [
                [-0.5675, 0.7192, 0.4009],
                [-0.5808, -0.0045, -0.8140],
                [-0.5836, -0.6948, 0.4203],
            ]
        )
        self.eigen_vals = np.array([0.2175, 0.0188, 0.0045])

    def get_transform(self, image: np.ndarray) -> Transform:
        assert image.shape[-1] == 3, "RandomLighting works on RGB images"
        weights = np.random.normal(scale=self.scale, size=3)
        shift = self.eigen_vecs.dot(weights * self.eigen_vals)
        return BlendTransform(src_image=shift, src_weight=1.0, dst_weight=1.0)


class MinIoURandomCrop(Augmentation):
    """Crop so that every box keeps a drawn minimum IoU with the window (SSD, 2.2)."""

    def __init__(
        self,
        min_ious: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
        min_crop_size: float = 0.3,
        mode_trials: int = 1000,
        crop_trials: int = 50,
    ) -> None:
        self._init(locals())
        self.sample_mode = (1, *min_ious, 0)  # 1: leave the image alone; 0: no IoU is asked for

    def get_transform(self, image: np.ndarray, boxes: np.ndarray | None) -> Transform:
        if boxes is None:
            return NoOpTransform()
        height, width = image.shape[:2]
        for _ in range(self.mode_trials):
            min_iou = np.random.choice(self.sample_mode)
            if min_iou == 1:
                return NoOpTransform()
            for _ in range(self.crop_trials):
                new_w = np.random.uniform(self.min_crop_size * width, width)
                new_h = np.random.uniform(self.min_crop_size * height, height)
                if not 0.5 <= new_h / new_w <= 2:
                    continue
                left = np.random.uniform(width - new_w)
                top = np.random.uniform(height - new_h)
                patch = np.array((int(left), int(top), int(left + new_w), int(top + new_h)))
                if patch[2] == patch[0] or patch[3] == patch[1]:
                    continue
                if len(boxes) and _iou_with(patch, boxes).min() < min_iou:
                    continue
                centers = (boxes[:, :2] + boxes[:, 2:]) / 2
                inside = ((centers > patch[:2]) & (centers < patch[2:])).all(axis=1)
                if not inside.any():
                    continue
                return CropTransform(int(left), int(top), int(new_w), int(new_h))
        return NoOpTransform()


def _iou_with(patch: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU of one box (4,) with boxes (N, 4)."""
    overlap = np.minimum(patch[2:], boxes[:, 2:]) - np.maximum(patch[:2], boxes[:, :2])
    overlap = np.prod(np.clip(overlap, 0, None), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return overlap / (np.prod(patch[2:] - patch[:2]) + areas - overlap)
