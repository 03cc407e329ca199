"""A few frames with their objects, and the geometric operations that keep both together.

Letters: F frames of H x W pixels, N objects in a frame (different for each). Operations change the
clip in place; one that takes ``frames`` can be limited to some of them. Pixel centres lie at
integer coordinates plus one half, so flips, crops and resizes treat boxes and pixels alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as mask_util


@dataclass
class Objects:
    """The objects of one frame.

    Attributes:
        masks: uint8 (N, H, W), 0 or 1.
        ids: int64 (N,), positive, the same for the same object in all frames.
        classes: int64 (N,), contiguous.
        identities: int64 (N,), over all training sets together; -1 unknown.
        boxes: float32 (N, 4), XYXY in pixels.
        outlines: for objects that are given as polygons, arrays (P, 2) of x, y in the frame; None
            for the others. None instead of the list: outlines play no part (any more).
    """

    masks: np.ndarray
    ids: np.ndarray
    classes: np.ndarray
    identities: np.ndarray
    boxes: np.ndarray
    outlines: list[list[np.ndarray] | None] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: np.ndarray) -> Objects:
        """Return the objects of some rows (index or boolean array)."""
        kept = np.arange(len(self))[rows]
        return Objects(
            self.masks[rows],
            self.ids[rows],
            self.classes[rows],
            self.identities[rows],
            self.boxes[rows],
            None if self.outlines is None else [self.outlines[k] for k in kept],
        )

    @classmethod
    def none(cls, height: int, width: int) -> Objects:
        """Return no object."""
        empty = np.zeros(0, np.int64)
        boxes = np.zeros((0, 4), np.float32)
        return cls(np.zeros((0, height, width), np.uint8), empty, empty, empty, boxes)


@dataclass
class Clip:
    """Frames and objects of one training item.

    Attributes:
        images: F arrays uint8 (H, W, 3), BGR or RGB.
        objects: F times ``Objects``.
        valid: F boolean arrays (H, W), False where an operation left no picture; None means True
            everywhere.
        ignored: F boolean arrays (H, W), True on crowds and void: nothing is learned of them;
            None: nothing ignored.
        boxes_follow_masks: boxes are to be taken from the masks at the end (rotated, cropped).
    """

    images: list[np.ndarray]
    objects: list[Objects]
    valid: list[np.ndarray | None] = field(default_factory=list)
    ignored: list[np.ndarray | None] = field(default_factory=list)
    boxes_follow_masks: bool = False

    def __post_init__(self) -> None:
        self.valid = self.valid or [None] * len(self.images)
        self.ignored = self.ignored or [None] * len(self.images)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the first frame; all frames agree except in the middle of an operation."""
        return self.images[0].shape[:2]

    def maps(self, frame: int) -> Iterator[tuple[list[np.ndarray | None], np.ndarray]]:
        """The maps of a frame beside its objects that there are, each with the list it is in."""
        for maps in (self.valid, self.ignored):
            if maps[frame] is not None:
                yield maps, maps[frame]

    def reverse(self) -> None:
        """Turn the order of the frames around."""
        for part in (self.images, self.objects, self.valid, self.ignored):
            part.reverse()


def boxes_of_masks(masks: np.ndarray) -> np.ndarray:
    """Return tight boxes float32 (N, 4), XYXY with exclusive ends; zeros for empty masks."""
    n, height, width = masks.shape
    rows, columns = masks.any(2), masks.any(1)
    boxes = np.stack(
        [
            columns.argmax(1),
            rows.argmax(1),
            width - columns[:, ::-1].argmax(1),
            height - rows[:, ::-1].argmax(1),
        ],
        1,
    ).astype(np.float32)
    boxes[~rows.any(1)] = 0
    return boxes.reshape(n, 4)


def flip(clip: Clip) -> None:
    """Mirror all frames left to right."""
    width = clip.size[1]
    for f, objects in enumerate(clip.objects):
        clip.images[f] = np.ascontiguousarray(clip.images[f][:, ::-1])
        objects.masks = np.ascontiguousarray(objects.masks[:, :, ::-1])
        x0, x1 = objects.boxes[:, 0].copy(), objects.boxes[:, 2].copy()
        objects.boxes[:, 0], objects.boxes[:, 2] = width - x1, width - x0
        for polygon in (p for o in objects.outlines or () for p in o or ()):
            polygon[:, 0] = width - polygon[:, 0]
        for maps, values in clip.maps(f):
            maps[f] = np.ascontiguousarray(values[:, ::-1])


def resize(clip: Clip, height: int, width: int, *, kind: str = "bilinear") -> None:
    """Scale all frames to (height, width): masks nearest, images bilinear with Pillow.

    Args:
        kind: "bilinear" or "area_bicubic": OpenCV's area when shrinking, else bicubic.
    """
    old_height, old_width = clip.size
    if (old_height, old_width) == (height, width):
        return
    scale = np.array([width / old_width, height / old_height] * 2, np.float32)
    rows = _nearest(old_height, height)
    columns = _nearest(old_width, width)
    for f, objects in enumerate(clip.objects):
        if kind == "bilinear":
            image = Image.fromarray(clip.images[f])
            clip.images[f] = np.array(image.resize((width, height), Image.Resampling.BILINEAR))
        else:
            shrinks = height * width < old_height * old_width
            flag = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
            clip.images[f] = cv2.resize(clip.images[f], (width, height), interpolation=flag)
        objects.masks = objects.masks[:, rows[:, None], columns]
        objects.boxes = objects.boxes * scale
        _draw_outlines(objects, scale[:2])
        for maps, values in clip.maps(f):
            maps[f] = values[rows[:, None], columns]


def _draw_outlines(objects: Objects, scale: np.ndarray) -> None:
    """Scale polygons by (x, y) and draw their masks anew: sharper than masks that are scaled."""
    height, width = objects.masks.shape[1:]
    for k, outline in enumerate(objects.outlines or ()):
        if outline is not None:
            for polygon in outline:
                polygon *= scale
            coordinates = [polygon.ravel().tolist() for polygon in outline]
            runs = mask_util.merge(mask_util.frPyObjects(coordinates, height, width))
            objects.masks[k] = mask_util.decode(runs)


def _nearest(old: int, new: int) -> np.ndarray:
    """Return the source index of each of ``new`` samples, as Pillow's NEAREST adds them up."""
    step = old / new
    steps = np.full(new, step)
    steps[0] = step / 2
    return np.minimum(np.cumsum(steps).astype(np.int64), old - 1)


def crop(clip: Clip, top: int, left: int, height: int, width: int) -> None:
    """Cut the same window out of all frames; it must lie inside them."""
    window = (slice(top, top + height), slice(left, left + width))
    for f, objects in enumerate(clip.objects):
        clip.images[f] = np.ascontiguousarray(clip.images[f][window])
        objects.masks = np.ascontiguousarray(objects.masks[:, window[0], window[1]])
        objects.outlines = None
        boxes = objects.boxes - np.array([left, top, left, top], np.float32)
        objects.boxes = np.clip(boxes, 0, np.array([width, height] * 2, np.float32))
        for maps, values in clip.maps(f):
            maps[f] = values[window]
    clip.boxes_follow_masks = True


def pad(clip: Clip, height: int, width: int) -> None:
    """Add zeros below and to the right up to (height, width); they are not valid."""
    old_height, old_width = clip.size
    extra = ((0, max(height - old_height, 0)), (0, max(width - old_width, 0)))
    if extra == ((0, 0), (0, 0)):
        return
    for f, objects in enumerate(clip.objects):
        valid = clip.valid[f]
        if valid is None:
            valid = np.ones((old_height, old_width), bool)
        clip.valid[f] = np.pad(valid, extra)
        if clip.ignored[f] is not None:
            clip.ignored[f] = np.pad(clip.ignored[f], extra)
        clip.images[f] = np.pad(clip.images[f], (*extra, (0, 0)))
        objects.masks = np.pad(objects.masks, ((0, 0), *extra))


def warp(
    clip: Clip,
    frame: int,
    matrix: np.ndarray,
    *,
    fill: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> None:
    """Apply a homography to one frame.

    Args:
        matrix: 3 x 3, maps old to new continuous coordinates (x right, y down, pixel (0, 0) covers
            [0, 1] x [0, 1]).
        fill: colour outside the old picture, which is not valid.
    """
    height, width = clip.images[frame].shape[:2]
    half = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])
    matrix = half @ np.asarray(matrix, np.float64) @ np.linalg.inv(half)
    objects = clip.objects[frame]
    linear = cv2.INTER_LINEAR
    clip.images[frame] = cv2.warpPerspective(
        clip.images[frame], matrix, (width, height), flags=linear, borderValue=fill
    )

    def nearest(plane: np.ndarray) -> np.ndarray:
        return cv2.warpPerspective(plane, matrix, (width, height), flags=cv2.INTER_NEAREST)

    if clip.valid[frame] is None:
        clip.valid[frame] = np.ones((height, width), bool)
    for maps, values in clip.maps(frame):
        maps[frame] = nearest(values.astype(np.uint8)).astype(bool)
    if len(objects):
        objects.masks = np.stack([nearest(mask) for mask in objects.masks])
    objects.outlines = None
    clip.boxes_follow_masks = True


def finish_boxes(
    clip: Clip, *, min_pixels: int, from_masks: bool, frames: Iterable[int] = ()
) -> None:
    """Drop objects with fewer than ``min_pixels`` visible pixels or an empty box; settle the boxes.

    Args:
        from_masks: take all boxes from the masks; else only where an operation asked for it.
        frames: the frames to treat; all by default.
    """
    for f in frames or range(len(clip)):
        objects = clip.objects[f]
        if from_masks or clip.boxes_follow_masks:
            objects.boxes = boxes_of_masks(objects.masks)
        height, width = clip.images[f].shape[:2]
        objects.boxes = np.clip(objects.boxes, 0, np.array([width, height] * 2, np.float32))
        sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
        keep = (sides > 1e-5).all(1)
        keep &= np.count_nonzero(objects.masks, axis=(1, 2)) >= max(min_pixels, 1)
        if not keep.all():
            clip.objects[f] = objects.select(keep)
