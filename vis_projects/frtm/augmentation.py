"""First-frame augmentation: the target cut out, moved and pasted (FRTM, section 3.1, supplement).

One annotated frame becomes several: the target is cut out, the hole is filled, both are warped
and blurred, and pasted together again. Images are uint8 (H, W, 3), masks bool (H, W).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, cos, radians, sin

import cv2
import numpy as np

FILLS = ("telea", "grey")
GREY = 128
DRAWN = 19  # specifications the parameter lists are made long enough for
MIN_SIDE = 10  # pixels; a target is not shrunk below
ROUNDS = 10  # attempts for a sample whose target leaves the frame

ANGLES = (5, -5, 10, -10, 20, -20, 30, -30, 45, -45)
FOREGROUND = {
    "rotation": ANGLES,
    "mirror": (True, False, False, False, False),
    "scale": (0.5, 0.7, 1.0, 1.5, 2.0, 2.5),
    "skew": (0.0, 0.0, 0.1),
    "blur": (0, 0, 0, 2),
    "blur_angle": (0, 45, 90, 135),
}
BACKGROUND = {
    "scale": (1.0, 1.0, 1.2),
    "blur": (0, 0, 1, 2, 5),
    "blur_angle": (0, 45, 90, 135),
}


@dataclass(frozen=True)
class Warp:
    """One placement of the target or the background.

    Attributes:
        location: centre in fractions of width and height.
        rotation: degrees.
        mirror: swap left and right.
        scale: factor.
        skew: both axes' shear.
        blur: variance in pixels^2 along ``blur_angle`` (degrees); 0 for none.
    """

    location: tuple[float, float] = (0.5, 0.5)
    rotation: float = 0.0
    mirror: bool = False
    scale: float = 1.0
    skew: float = 0.0
    blur: float = 0.0
    blur_angle: float = 0.0


@dataclass(frozen=True)
class Box:
    """Centre, width and height in pixels."""

    cx: float
    cy: float
    w: float
    h: float

    @classmethod
    def around(cls, mask: np.ndarray) -> Box:
        """Box of a mask with at least one pixel."""
        x0, y0, w, h = cv2.boundingRect(mask.astype(np.uint8))
        return cls(x0 + w / 2, y0 + h / 2, w, h)


def augment(
    image: np.ndarray,
    mask: np.ndarray,
    samples: int,
    *,
    rng: np.random.Generator,
    fill: str = "telea",
) -> tuple[np.ndarray, np.ndarray]:
    """Return images (S, H, W, 3) and masks (S, H, W); the first pair is the one given.

    A target that covers the frame is warped over grey; one whose warped mask leaves the frame, or
    fills it though the given one does not, is drawn again; after ten rounds the given pair stands
    in for what is missing.

    Args:
        image, mask: the annotated frame; the mask has at least one pixel.
        samples: S.
        rng: source of all randomness.
        fill: what replaces the target in the background, ``"telea"`` inpainting or ``"grey"``.

    Raises:
        ValueError: empty mask, unknown fill.
    """
    if fill not in FILLS:
        raise ValueError(f"MODEL.FRTM.AUGMENTATION.FILL {fill!r}: use {' or '.join(FILLS)}")
    if not mask.any():
        raise ValueError("augmentation: the mask has no pixel")
    image, mask = np.ascontiguousarray(image), mask.astype(np.uint8)
    images, masks = [image], [mask.astype(bool)]
    if samples > 1:
        scene = _Scene(image, mask, fill)
        for _ in range(ROUNDS):
            for target, ground in draw_warps(samples - len(images), mask.shape, rng):
                pasted, moved = scene.paste(target, ground)
                if moved.any() and (scene.full or not moved.all()):
                    images.append(pasted)
                    masks.append(moved)
            if len(images) == samples:
                break
    missing = samples - len(images)
    return np.stack(images + images[:1] * missing), np.stack(masks + masks[:1] * missing)


class _Scene:
    """The annotated frame taken apart."""

    def __init__(self, image: np.ndarray, mask: np.ndarray, fill: str) -> None:
        height, width = mask.shape
        self.size = (width, height)
        self.full = bool(mask.all())
        self.mask = mask
        self.box = Box.around(mask)
        self.frame = Box(width / 2, height / 2, width, height)
        alpha = mask[..., None] * np.uint8(255)
        self.target = np.concatenate([image * mask[..., None], alpha], -1)
        self.ground = fill_hole(image, mask, fill)

    def paste(self, target: Warp, ground: Warp) -> tuple[np.ndarray, np.ndarray]:
        """Return one augmented image and mask."""
        matrix = affine(target, self.box, self.size, limit=True)[:2]
        moved = cv2.warpAffine(self.mask, matrix, self.size, flags=cv2.INTER_NEAREST) > 0
        over = self._warp(self.target, matrix, target).astype(np.float32)
        under = self._warp(
            self.ground, affine(ground, self.frame, self.size, limit=False)[:2], ground
        ).astype(np.float32)
        alpha = over[..., 3:] / 255
        return (over[..., :3] * alpha + under * (1 - alpha)).astype(np.uint8), moved

    def _warp(self, image: np.ndarray, matrix: np.ndarray, warp: Warp) -> np.ndarray:
        out = cv2.warpAffine(image, matrix, self.size, flags=cv2.INTER_CUBIC)  # zero outside
        if warp.blur > 0:
            kernel = blur_kernel(warp.blur, warp.blur_angle)
            out = cv2.filter2D(out, -1, kernel, borderType=cv2.BORDER_CONSTANT)
        return out


def fill_hole(image: np.ndarray, mask: np.ndarray, fill: str) -> np.ndarray:
    """Replace the target, one pixel wider, by what surrounds it or by grey."""
    hole = cv2.dilate(mask.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2, 2)))
    if fill == "telea" and not hole.all():
        return cv2.inpaint(image, hole, 1, cv2.INPAINT_TELEA)
    return np.where(hole[..., None] > 0, np.uint8(GREY), image)


def affine(warp: Warp, box: Box, size: tuple[int, int], *, limit: bool) -> np.ndarray:
    """Return the matrix (3, 3) from source to destination pixels.

    Args:
        box: what is moved: its centre goes to the warp's location.
        size: (W, H).
        limit: keep the box inside the frame and above ten pixels a side.
    """
    scale = warp.scale
    if limit:
        if scale * box.w > size[0] or scale * box.h > size[1]:
            scale = min(size[0] / box.w, size[1] / box.h)
        if scale * box.w < MIN_SIDE or scale * box.h < MIN_SIDE:
            scale = max(MIN_SIDE / box.w, MIN_SIDE / box.h)
    c, s = cos(radians(warp.rotation)), sin(radians(warp.rotation))
    rotate = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    skew = np.array([[1, warp.skew, 0], [warp.skew, 1, 0], [0, 0, 1]])
    resize = np.diag([-scale if warp.mirror else scale, scale, 1.0])
    to = _shift(warp.location[0] * size[0], warp.location[1] * size[1])
    return to @ skew @ rotate @ resize @ _shift(-box.cx, -box.cy)


def _shift(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], float)


def blur_kernel(variance: float, angle: float) -> np.ndarray:
    """Return a Gaussian of ``variance`` along ``angle`` degrees and 0.1 across, summing to 1."""
    half = int(variance / 2 + 0.5)
    half += 1 - half % 2
    c, s = cos(radians(angle)), sin(radians(angle))
    turn = np.array([[c, s], [-s, c]])
    precision = np.linalg.inv(turn @ np.diag([variance, 0.1]) @ turn.T)
    axis = np.arange(-half, half + 1)
    x = np.stack(np.meshgrid(axis, axis), -1)  # (k, k, 2): columns, rows
    kernel = np.exp(-0.5 * np.einsum("...i,ij,...j", x, precision, x))
    return kernel / kernel.sum()


def grid_locations(
    count: int, size: tuple[int, int], rng: np.random.Generator
) -> list[tuple[float, float]]:
    """Draw centres (fractions of width, height) from a jittered grid over the frame.

    Args:
        size: (H, W).
    """
    aspect = size[1] / size[0]
    rows = ceil((count / aspect) ** 0.5)
    columns = ceil(aspect * rows)
    x, y = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
    centres = np.stack([x.ravel(), y.ravel()], 1)
    centres = centres + rng.normal(size=centres.shape) * [1 / (8 * columns), 1 / (8 * rows)]
    centres = np.round(rng.permutation(centres), 3)[:count]
    return [(float(a), float(b)) for a, b in centres]


def draw_warps(
    count: int, size: tuple[int, int], rng: np.random.Generator
) -> list[tuple[Warp, Warp]]:
    """Draw (target, background) placements.

    The authors repeat each list of values to at least 19, shuffle, make 19 images and keep some
    at random; drawing from the repeated list without replacement is the same.

    Args:
        size: (H, W).
    """

    def draw(values: list) -> list:
        pool = list(values) * ceil(max(DRAWN, count) / len(values))
        return [pool[i] for i in rng.permutation(len(pool))[:count]]

    target = {name: draw(values) for name, values in FOREGROUND.items()}
    target["location"] = draw(grid_locations(5, size, rng))
    ground = {name: draw(values) for name, values in BACKGROUND.items()}
    return [
        (
            Warp(**{name: values[i] for name, values in target.items()}),
            Warp(**{name: values[i] for name, values in ground.items()}),
        )
        for i in range(count)
    ]
