"""Transforms beyond fvcore's: resize, rotate, extent, colour functions.

Images are (H, W) or (H, W, C) arrays; coordinates (N, 2) are (x, y) in pixels, edges at 0 and W.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.transforms.transform import CropTransform, NoOpTransform, Transform, TransformList
from PIL import Image

__all__ = [
    "ColorTransform",
    "ExtentTransform",
    "PILColorTransform",
    "ResizeTransform",
    "RotationTransform",
]


def _pil_map(image: np.ndarray, function: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Apply ``function`` to a uint8 image as a PIL image, keeping a trailing channel of one."""
    flat = image.ndim == 3 and image.shape[2] == 1
    pil = Image.fromarray(np.ascontiguousarray(image[:, :, 0] if flat else image))
    result = np.asarray(function(pil))
    return result[:, :, None] if flat else result


class ExtentTransform(Transform):
    """Take the rectangle ``src_rect`` (x0, y0, x1, y1) and scale it to ``output_size`` (h, w).

    The rectangle may reach beyond the image; pixels from there are ``fill``.
    """

    def __init__(
        self,
        src_rect: tuple[float, float, float, float],
        output_size: tuple[int, int],
        interp: int = Image.BILINEAR,
        fill: float = 0,
    ) -> None:
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        height, width = self.output_size
        resample = self.interp if interp is None else interp
        return _pil_map(
            img,
            lambda pil: pil.transform(
                size=(width, height),
                method=Image.Transform.EXTENT,
                data=self.src_rect,
                resample=resample,
                fill=self.fill,
            ),
        )

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        height, width = self.output_size
        x0, y0, x1, y1 = self.src_rect
        coords = coords.astype(np.float32)
        coords[:, 0] = (coords[:, 0] - x0) * (width / (x1 - x0))
        coords[:, 1] = (coords[:, 1] - y0) * (height / (y1 - y0))
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self.apply_image(segmentation, interp=Image.NEAREST)


class ResizeTransform(Transform):
    """Resize (h, w) to (new_h, new_w).

    uint8 images go through PIL (which smooths when it shrinks); other types through
    ``F.interpolate`` without anti-aliasing. ``interp`` is a PIL filter, bilinear by default.
    """

    _TORCH_MODES = {Image.NEAREST: "nearest", Image.BILINEAR: "bilinear", Image.BICUBIC: "bicubic"}

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None) -> None:
        super().__init__()
        interp = Image.BILINEAR if interp is None else interp
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        assert img.shape[:2] == (self.h, self.w), f"expected {self.h} x {self.w}, got {img.shape}"
        assert img.ndim <= 4
        method = self.interp if interp is None else interp
        if img.dtype == np.uint8:
            return _pil_map(img, lambda pil: pil.resize((self.new_w, self.new_h), method))
        tensor = torch.from_numpy(np.ascontiguousarray(img))  # also drops negative strides
        shape = tuple(tensor.shape)
        channels_first = tensor.reshape(*shape[:2], -1).permute(2, 0, 1)[None]
        mode = self._TORCH_MODES[method]
        resized = F.interpolate(
            channels_first,
            (self.new_h, self.new_w),
            mode=mode,
            align_corners=None if mode == "nearest" else False,
        )
        return resized[0].permute(1, 2, 0).reshape(self.new_h, self.new_w, *shape[2:]).numpy()

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        coords[:, 0] = coords[:, 0] * (self.new_w * 1.0 / self.w)
        coords[:, 1] = coords[:, 1] * (self.new_h * 1.0 / self.h)
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self.apply_image(segmentation, interp=Image.NEAREST)

    def inverse(self) -> ResizeTransform:
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)


class RotationTransform(Transform):
    """Rotate by ``angle`` degrees counter-clockwise around ``center`` (x, y).

    ``expand`` enlarges the image so that nothing is cut off. ``interp`` is an OpenCV flag.
    """

    def __init__(
        self,
        h: int,
        w: int,
        angle: float,
        expand: bool = True,
        center: tuple[float, float] | None = None,
        interp: int | None = None,
    ) -> None:
        import cv2

        super().__init__()
        image_center = np.array((w / 2, h / 2))
        center = image_center if center is None else center
        interp = cv2.INTER_LINEAR if interp is None else interp
        cos, sin = np.abs(np.cos(np.deg2rad(angle))), np.abs(np.sin(np.deg2rad(angle)))
        if expand:
            bound_w, bound_h = np.rint([h * sin + w * cos, h * cos + w * sin]).astype(int)
        else:
            bound_w, bound_h = w, h
        self._set_attributes(locals())
        # pixel centres lie at halves for coordinates and at integers for the image
        self.rm_coords = self.create_rotation_matrix()
        self.rm_image = self.create_rotation_matrix(offset=-0.5)

    def create_rotation_matrix(self, offset: float = 0) -> np.ndarray:
        """Return the (2, 3) matrix for points whose origin is moved by ``offset``."""
        import cv2

        center = (self.center[0] + offset, self.center[1] + offset)
        matrix = cv2.getRotationMatrix2D(tuple(map(float, center)), self.angle, 1)
        if self.expand:
            moved = matrix[:, :2] @ (self.image_center + offset) + matrix[:, 2]
            target = np.array([self.bound_w / 2, self.bound_h / 2]) + offset
            matrix[:, 2] += target - moved
        return matrix

    def _is_identity(self) -> bool:
        return self.angle % 360 == 0

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        import cv2

        if len(img) == 0 or self._is_identity():
            return img
        assert img.shape[:2] == (self.h, self.w), f"expected {self.h} x {self.w}, got {img.shape}"
        flags = self.interp if interp is None else interp
        size = (int(self.bound_w), int(self.bound_h))
        return cv2.warpAffine(img, self.rm_image, size, flags=flags)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        coords = np.asarray(coords, dtype=float)
        if len(coords) == 0 or self._is_identity():
            return coords
        return coords @ self.rm_coords[:, :2].T + self.rm_coords[:, 2]

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        import cv2

        return self.apply_image(segmentation, interp=cv2.INTER_NEAREST)

    def inverse(self) -> Transform:
        if not self.expand:
            raise NotImplementedError("a rotation that cut corners off has no inverse")
        back = RotationTransform(self.bound_h, self.bound_w, -self.angle, True, None, self.interp)
        crop = CropTransform(
            (back.bound_w - self.w) // 2, (back.bound_h - self.h) // 2, self.w, self.h
        )
        return TransformList([back, crop])


class ColorTransform(Transform):
    """Apply ``op`` to the image; coordinates and segmentations stay."""

    def __init__(self, op: Callable[[np.ndarray], np.ndarray]) -> None:
        if not callable(op):
            raise ValueError("op must be callable")
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return self.op(img)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation

    def inverse(self) -> Transform:
        return NoOpTransform()


class PILColorTransform(ColorTransform):
    """Like ``ColorTransform``, with an ``op`` from PIL image to PIL image."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return np.asarray(self.op(Image.fromarray(img)))
