"""Clips made of one still image.

``rotation``: Propose-Reduce, section 4.2: rotations by -30, 0 and 30 degrees. ``affine``: SRNet,
section 4.1: the image and a recoloured, warped and blurred copy. ``repeat``: the same image in
every frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .clip import Clip, warp
from .clip_augmentation import random_blur, shift_colour


@dataclass(frozen=True)
class WarpOptions:
    """How far the second frame of an ``affine`` pair goes; defaults of SRNet.

    Attributes:
        perspective: standard deviation of the inward move of each corner, share of the side.
        rotation: degrees, at most.
        translation: share of the side, at most.
        value, hue_saturation: see ``shift_colour``.
        blur_prob: of motion blur with a kernel of 9 or 11 pixels.
    """

    perspective: float = 0.08
    rotation: float = 12.0
    translation: float = 0.1
    value: int = 40
    hue_saturation: int = 5
    blur_prob: float = 0.25


def affine_matrix(
    size: tuple[int, int], *, degrees: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    """Return the 3 x 3 matrix of a turn about the centre of (H, W), then a shift (x, y)."""
    height, width = size
    angle = np.deg2rad(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    to_centre = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]])
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    back = np.array([[1, 0, width / 2 + shift[0]], [0, 1, height / 2 + shift[1]], [0, 0, 1]])
    return back @ turn @ to_centre


def perspective_matrix(size: tuple[int, int], inward: np.ndarray) -> np.ndarray:
    """Return the homography that maps an inner quadrilateral to the full frame (a zoom-in).

    Args:
        inward: (4, 2), how far the corners (left top, right top, right bottom, left bottom) move
            inwards, shares of W and H.
    """
    height, width = size
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    sign = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    inner = corners + sign * inward * [width, height]
    rows, values = [], []
    for (x, y), (u, v) in zip(inner, corners):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.append(np.linalg.solve(np.array(rows), np.array(values)), 1).reshape(3, 3)


def rotation_clip(
    clip: Clip, *, degrees: float = 30.0, rng: np.random.Generator | None = None
) -> None:
    """Turn the frames by equal steps from -degrees to +degrees; outside is the mean colour.

    With ``rng``, a pair is two different frames, in random order, of the clip of three.
    """
    angles = np.linspace(-degrees, degrees, len(clip)) if len(clip) > 1 else [0.0]
    if rng is not None and len(clip) == 2:
        angles = rng.permutation([-degrees, 0.0, degrees])[:2]
    for f, angle in enumerate(angles):
        if angle != 0:
            fill = tuple(float(c) for c in clip.images[f].reshape(-1, 3).mean(0))
            warp(clip, f, affine_matrix(clip.size, degrees=float(angle)), fill=fill)


def warp_frame(
    clip: Clip,
    frame: int,
    rng: np.random.Generator,
    options: WarpOptions = WarpOptions(),
    *,
    image_format: str = "BGR",
) -> None:
    """Recolour, warp and blur one frame as SRNet makes the second frame of a synthetic pair."""
    if options.value or options.hue_saturation:
        shift_colour(
            clip,
            frame,
            rng,
            value=options.value,
            hue_saturation=options.hue_saturation,
            image_format=image_format,
        )
    height, width = clip.size
    # Two opposite corners may not pass each other: keep the quadrilateral convex.
    inward = np.minimum(np.abs(rng.normal(0, options.perspective, (4, 2))) % 1, 0.45)
    degrees = rng.uniform(-options.rotation, options.rotation)
    limit = options.translation
    shift = (rng.uniform(-limit, limit) * width, rng.uniform(-limit, limit) * height)
    matrix = affine_matrix((height, width), degrees=degrees, shift=shift)
    warp(clip, frame, matrix @ perspective_matrix((height, width), inward))
    random_blur(clip, rng, motion_prob=options.blur_prob, frames=[frame])


def affine_clip(
    clip: Clip,
    rng: np.random.Generator,
    options: WarpOptions = WarpOptions(),
    *,
    image_format: str = "BGR",
) -> None:
    """Keep the first frame, warp every other independently, then shuffle the order."""
    for f in range(1, len(clip)):
        warp_frame(clip, f, rng, options, image_format=image_format)
    order = rng.permutation(len(clip))
    clip.images = [clip.images[i] for i in order]
    clip.objects = [clip.objects[i] for i in order]
    clip.valid = [clip.valid[i] for i in order]
    clip.ignored = [clip.ignored[i] for i in order]
