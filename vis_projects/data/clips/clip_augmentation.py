"""Augmentation of clips: drawn once and applied to all frames alike, unless a frame is named.

Every function takes the clip and a numpy ``Generator`` and changes the clip in place. Letters as in
``clip``.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ...structures import InputError
from .clip import Clip, crop, flip, resize


def random_flip(clip: Clip, rng: np.random.Generator, *, prob: float) -> None:
    """Mirror left to right with probability ``prob``."""
    if rng.random() < prob:
        flip(clip)


def random_reverse(clip: Clip, rng: np.random.Generator, *, prob: float) -> bool:
    """Reverse the order of the frames with probability ``prob``; tells whether it did."""
    if rng.random() < prob:
        clip.reverse()
        return True
    return False


def scaled_size(
    size: tuple[int, int], short: float, max_long: float | None = None
) -> tuple[int, int]:
    """Return (H, W) with short side ``short``, less if the long side would exceed ``max_long``."""
    height, width = size
    scale = short / min(height, width)
    if max_long is not None:
        scale = min(scale, max_long / max(height, width))
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def random_resize(
    clip: Clip,
    rng: np.random.Generator,
    *,
    short: Sequence[int],
    max_long: int,
    style: str = "choice",
) -> None:
    """Scale to a random short side, as Detectron2's ResizeShortestEdge.

    Args:
        short: sizes to choose from, or ends of a range, ``style`` "choice" or "range"; (0,) leaves
        the
            clip as it is.
    """
    if style not in ("choice", "range"):
        raise InputError(
            f"INPUT.MIN_SIZE_TRAIN_SAMPLING {style!r} is unknown: use 'choice' or 'range'"
        )
    if style == "range":
        if len(short) != 2:
            raise InputError("INPUT.MIN_SIZE_TRAIN needs two values when the style is 'range'")
        target = int(rng.integers(short[0], short[1] + 1))
    else:
        target = int(short[rng.integers(len(short))])
    if target > 0:
        resize(clip, *scaled_size(clip.size, target, max_long))


def random_scale(clip: Clip, rng: np.random.Generator, *, low: float, high: float) -> None:
    """Scale by a random factor."""
    factor = rng.uniform(low, high)
    if factor != 1:
        height, width = clip.size
        resize(clip, max(round(height * factor), 1), max(round(width * factor), 1))


def random_crop(
    clip: Clip,
    rng: np.random.Generator,
    *,
    size: tuple[int, int],
    style: str = "any",
    tries: int = 5,
    min_share: float = 0.01,
    min_pixels: int = 0,
) -> None:
    """Cut one window of at most ``size`` (H, W) out of all frames.

    Args:
        style: "any" window; "instance": redraw until a window shows part of an object in some
        frame;
            "balanced": redraw until the first frame shows enough foreground (CFBI's balanced random
            crop).
        tries: draws at most; the last, or the best for "balanced", is taken.
        min_share: foreground that "balanced" asks for, as a share of the window.
        min_pixels: instead "balanced" asks that some object has this many pixels in the window.
    """
    height, width = clip.size
    h, w = min(size[0], height), min(size[1], width)
    if (h, w) == (height, width):
        return
    per_object = style == "balanced" and min_pixels > 0
    watched = clip.objects[:1] if style == "balanced" else clip.objects
    if per_object:
        planes = list(watched[0].masks) if watched else []
    else:
        planes = [o.masks.any(0) for o in watched if len(o)]
    need = {"any": 0, "instance": 1, "balanced": min_pixels or max(min_share * h * w, 1)}
    if style not in need:
        raise InputError(f"INPUT.AUGMENTATIONS.CROP.STYLE {style!r} is unknown: {', '.join(need)}")
    best, best_count = None, -1
    for _ in range(max(tries, 1)):
        top = int(rng.integers(height - h + 1))
        left = int(rng.integers(width - w + 1))
        counts = [int(np.count_nonzero(p[top : top + h, left : left + w])) for p in planes]
        count = max(counts, default=0) if per_object else sum(counts)
        if count > best_count:
            best, best_count = (top, left), count
        if count >= need[style]:
            break
    crop(clip, *best, h, w)


def jitter_colour(
    clip: Clip,
    rng: np.random.Generator,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    image_format: str = "BGR",
    per_frame: bool = False,
) -> None:
    """Scale brightness, contrast and saturation by U[1 - x, 1 + x] and shift the hue by U[-hue,
    hue].

    Args:
        hue: in degrees.
        per_frame: draw anew for every frame.
    """
    if not (brightness or contrast or saturation or hue):
        return
    factors = None
    for f, image in enumerate(clip.images):
        if factors is None or per_frame:
            factors = [rng.uniform(1 - x, 1 + x) for x in (brightness, contrast, saturation)]
            shift = rng.uniform(-hue, hue)
        gain, spread, colour = factors
        mean = float(image.mean())
        table = (np.arange(256) * gain - mean * gain) * spread + mean * gain
        image = np.clip(np.rint(table), 0, 255).astype(np.uint8)[image]
        if saturation or hue:
            to, back = _hsv_codes(image_format)
            hsv = cv2.cvtColor(image, to).astype(np.float32)
            hsv[..., 0] = (hsv[..., 0] + shift / 2) % 180
            hsv[..., 1] = np.clip(hsv[..., 1] * colour, 0, 255)
            image = cv2.cvtColor(_hsv_bytes(hsv), back)
        clip.images[f] = image


def _hsv_bytes(hsv: np.ndarray) -> np.ndarray:
    out = np.rint(hsv)
    out[..., 0] %= 180
    return out.astype(np.uint8)


def _hsv_codes(image_format: str) -> tuple[int, int]:
    if image_format == "RGB":
        return cv2.COLOR_RGB2HSV, cv2.COLOR_HSV2RGB
    return cv2.COLOR_BGR2HSV, cv2.COLOR_HSV2BGR


def shift_colour(
    clip: Clip,
    frame: int,
    rng: np.random.Generator,
    *,
    value: int = 40,
    hue_saturation: int = 5,
    image_format: str = "BGR",
) -> None:
    """Add a constant to all channels of a frame, to its hue and saturation, or both (SRNet,
    section 6).

    Args:
        value: the constant is drawn from U[-value, value], in grey levels.
        hue_saturation: likewise for hue and saturation, in OpenCV's 8-bit units.
    """
    which = rng.integers(1, 4)  # bit 0: channels, bit 1: hue and saturation
    add, turn = (int(rng.integers(-n, n + 1)) for n in (value, hue_saturation))
    image = clip.images[frame]
    if which & 1:
        image = np.clip(image.astype(np.int16) + add, 0, 255).astype(np.uint8)
    if which & 2:
        to, back = _hsv_codes(image_format)
        hsv = cv2.cvtColor(image, to).astype(np.float32)
        hsv[..., 0] = (hsv[..., 0] + turn) % 180
        hsv[..., 1] = np.clip(hsv[..., 1] + turn, 0, 255)
        image = cv2.cvtColor(_hsv_bytes(hsv), back)
    clip.images[frame] = image


def motion_blur(image: np.ndarray, length: int, angle: float) -> np.ndarray:
    """Blur a uint8 image along a line of ``length`` pixels (odd) at ``angle`` radians."""
    kernel = np.zeros((length, length), np.float32)
    middle = length // 2
    dx, dy = middle * np.cos(angle), middle * np.sin(angle)
    start, end = (round(middle - dx), round(middle - dy)), (round(middle + dx), round(middle + dy))
    cv2.line(kernel, start, end, 1.0)
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)


def random_blur(
    clip: Clip,
    rng: np.random.Generator,
    *,
    motion_prob: float = 0.0,
    motion_lengths: Sequence[int] = (9, 11),
    gaussian_prob: float = 0.0,
    gaussian_sigma: float = 1.5,
    frames: Sequence[int] | None = None,
) -> None:
    """Blur all frames (or some) alike: motion and Gaussian blur, each with its own probability."""
    chosen = range(len(clip)) if frames is None else frames
    if rng.random() < motion_prob:
        length = int(motion_lengths[rng.integers(len(motion_lengths))])
        angle = rng.uniform(0, np.pi)
        for f in chosen:
            clip.images[f] = motion_blur(clip.images[f], length, angle)
    if rng.random() < gaussian_prob:
        sigma = rng.uniform(0.1, gaussian_sigma)
        for f in chosen:
            clip.images[f] = cv2.GaussianBlur(clip.images[f], (0, 0), sigma)
