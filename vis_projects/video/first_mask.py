"""First masks without a mask file: boxes or points to masks by OpenCV's GrabCut.

Letters: H x W pixels. Coordinates are pixels, x to the right, y down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from ..structures import InputError

SIDE = 480  # GrabCut sees the surroundings of an object at most this large
MIN_SHARE = 0.05  # of a box: a smaller mask is taken for a failure
# Second opinion: an image, uint8 (h, w, 3), BGR, to where objects are in it, bool (h, w).
Finder = Callable[[np.ndarray], np.ndarray]


@dataclass
class Prompt:
    """What a person says about one object.

    Attributes:
        box: (x0, y0, x1, y1), the object lies inside; None with points alone.
        inside, outside: points (x, y) on the object and on what is not it.
    """

    box: tuple[float, float, float, float] | None = None
    inside: list[tuple[float, float]] = field(default_factory=list)
    outside: list[tuple[float, float]] = field(default_factory=list)


def parse_box(text: str) -> tuple[float, float, float, float]:
    """Read ``x0,y0,x1,y1``.

    Raises:
        InputError: another form, or an empty box.
    """
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--box {text}: write x0,y0,x1,y1 in pixels") from None
    if not (x1 - x0 >= 2 and y1 - y0 >= 2):
        raise InputError(f"--box {text}: x1 and y1 lie right of and below x0 and y0, in pixels")
    return x0, y0, x1, y1


def parse_point(text: str) -> tuple[int, tuple[float, float]]:
    """Read ``[ID:]x,y``: object id (1 by default) and the point.

    Raises:
        InputError: another form.
    """
    head, colon, place = text.rpartition(":")
    try:
        number = int(head) if colon else 1
        x, y = (float(part) for part in place.split(","))
        if number < 1:
            raise ValueError
    except ValueError:
        raise InputError(f"point {text}: write x,y or ID:x,y in pixels, ID from 1") from None
    return number, (x, y)


def prompts_of(
    boxes: Sequence[str], points: Sequence[str] = (), background: Sequence[str] = ()
) -> dict[int, Prompt]:
    """Return the prompts by object id: the boxes are objects 1, 2, ... in their order.

    Args:
        boxes: ``x0,y0,x1,y1`` each.
        points, background: ``[ID:]x,y`` each, on the object and on what is not it.

    Raises:
        InputError: another form.
    """
    prompts = {n: Prompt(box=parse_box(text)) for n, text in enumerate(boxes, 1)}
    for texts, name in ((points, "inside"), (background, "outside")):
        for text in texts:
            number, place = parse_point(text)
            getattr(prompts.setdefault(number, Prompt()), name).append(place)
    return prompts


def first_masks(
    image: np.ndarray, prompts: dict[int, Prompt], *, finder: Finder | None = None
) -> np.ndarray:
    """Return a label map of ids, uint8 (H, W), one object per prompt.

    Where objects overlap, the smaller one has the pixels.

    Args:
        image: uint8 (H, W, 3), BGR.
        finder: see ``mask_of``.

    Raises:
        InputError: a box or a point outside the frame, or an object without box and point on it.
    """
    masks = {n: mask_of(image, prompt, n, finder=finder) for n, prompt in prompts.items()}
    labels = np.zeros(image.shape[:2], np.uint8)
    for number, mask in sorted(masks.items(), key=lambda item: -int(item[1].sum())):
        labels[mask] = number
    return labels


def mask_of(
    image: np.ndarray, prompt: Prompt, number: int = 1, *, finder: Finder | None = None
) -> np.ndarray:
    """Return one object's mask, bool (H, W); never empty and never outside its box.

    GrabCut decides inside the box, from the colours in it and around it. Where it finds next to
    nothing, an ellipse that fills the box stands in.

    Args:
        finder: says what in the box is likely to be an object; GrabCut starts from that. Without
            one, or where it finds next to nothing, all of the box is.
    """
    _check(image, prompt, number)
    height, width = image.shape[:2]
    box = _clipped(prompt.box or _box_of_points(prompt, (height, width)), (height, width))
    x0, y0, x1, y1 = box
    margin = [max(int(0.4 * (b - a)), 16) for a, b in ((x0, x1), (y0, y1))]
    left, top = max(x0 - margin[0], 0), max(y0 - margin[1], 0)
    right, bottom = min(x1 + margin[0], width), min(y1 + margin[1], height)
    window = image[top:bottom, left:right]
    scale = min(1.0, SIDE / max(window.shape[:2]))
    small = cv2.resize(window, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    likely = None if finder is None or prompt.box is None else finder(small)
    trimap = _trimap(small.shape[:2], box, prompt, (left, top), scale, likely)
    found = _grab_cut(small, trimap)
    found = cv2.resize(found.astype(np.uint8), window.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = found > 0
    inside = np.zeros_like(mask)
    inside[y0:y1, x0:x1] = True
    mask &= inside
    if mask.sum() < MIN_SHARE * inside.sum():
        mask = _ellipse(box, (height, width))
    for x, y in prompt.inside:
        mask[int(y), int(x)] = True
    return mask


def _check(image: np.ndarray, prompt: Prompt, number: int) -> None:
    height, width = image.shape[:2]
    if prompt.box is None and not prompt.inside:
        raise InputError(f"object {number} has neither a box nor a point on it")
    for x, y in (*prompt.inside, *prompt.outside):
        if not (0 <= x < width and 0 <= y < height):
            raise InputError(
                f"the point {x:g},{y:g} lies outside the frame of {width}x{height} (x, y) pixels"
            )
    if prompt.box is not None:
        x0, y0, x1, y1 = prompt.box
        if min(x1, width) - max(x0, 0) < 2 or min(y1, height) - max(y0, 0) < 2:
            raise InputError(
                f"the box {x0:g},{y0:g},{x1:g},{y1:g} lies outside the frame of {width}x{height} "
                "(x, y) pixels"
            )


def _clipped(
    box: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[int, int, int, int]:
    height, width = size
    x0, y0, x1, y1 = box
    return (max(int(x0), 0), max(int(y0), 0),
            min(int(np.ceil(x1)), width), min(int(np.ceil(y1)), height))  # fmt: skip


def _box_of_points(prompt: Prompt, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the frame region in which an object given by points alone may lie."""
    height, width = size
    x, y = np.array(prompt.inside).T
    room = 0.35 * max(height, width)
    return (x.min() - room, y.min() - room, x.max() + room, y.max() + room)


def _trimap(
    size: tuple[int, int],
    box: tuple[int, int, int, int],
    prompt: Prompt,
    corner: tuple[int, int],
    scale: float,
    likely: np.ndarray | None,
) -> np.ndarray:
    """Return GrabCut's start: background around the box, a likely object in it, points for sure."""
    trimap = np.full(size, cv2.GC_BGD, np.uint8)
    x0, y0, x1, y1 = ((v - corner[k % 2]) * scale for k, v in enumerate(box))
    rows, columns = slice(round(y0), round(y1)), slice(round(x0), round(x1))
    if prompt.box is not None:
        trimap[rows, columns] = cv2.GC_PR_FGD
        if likely is not None and likely[rows, columns].mean() > MIN_SHARE:
            trimap[rows, columns][~likely[rows, columns]] = cv2.GC_PR_BGD
    else:
        trimap[rows, columns] = cv2.GC_PR_BGD
    radius = max(2, round(0.02 * max(size)))
    near = 4 * radius if prompt.box is None else radius
    for points, wide, sure in (
        (prompt.inside, near, cv2.GC_PR_FGD),
        (prompt.inside, radius, cv2.GC_FGD),
        (prompt.outside, radius, cv2.GC_BGD),
    ):
        for x, y in points:
            at = (round((x - corner[0]) * scale), round((y - corner[1]) * scale))
            cv2.circle(trimap, at, wide, int(sure), -1)
    return trimap


def _grab_cut(image: np.ndarray, trimap: np.ndarray) -> np.ndarray:
    """Return the object, bool; all False where GrabCut cannot work (no background, one colour)."""
    background = np.isin(trimap, (cv2.GC_BGD, cv2.GC_PR_BGD))
    if background.all() or not background.any():
        return np.zeros(trimap.shape, bool)
    labels = trimap.copy()
    models = np.zeros((2, 1, 65), np.float64)
    cv2.setRNGSeed(0)  # the colour models start at random
    try:
        cv2.grabCut(image, labels, None, models[0], models[1], 6, cv2.GC_INIT_WITH_MASK)
    except cv2.error:
        return np.zeros(trimap.shape, bool)
    found = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    found = cv2.morphologyEx(found, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return _main_parts(found)


def _main_parts(mask: np.ndarray) -> np.ndarray:
    """Return a mask without specks: parts of a tenth of the largest or more, holes filled."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count < 2:
        return mask > 0
    area = stats[1:, cv2.CC_STAT_AREA]
    keep = 1 + np.flatnonzero(area >= 0.1 * area.max())
    return np.isin(labels, keep)


def _ellipse(box: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
    x0, y0, x1, y1 = box
    mask = np.zeros(size, np.uint8)
    centre = ((x0 + x1 - 1) // 2, (y0 + y1 - 1) // 2)
    axes = (max((x1 - x0) * 9 // 20, 1), max((y1 - y0) * 9 // 20, 1))
    cv2.ellipse(mask, centre, axes, 0, 0, 360, 1, -1)
    return mask > 0
