"""Pasting: occlusion and independent motion for clips with a single object (SRNet, section 6)."""

from __future__ import annotations

import numpy as np

from .clip import Clip, Objects, boxes_of_masks


def duplicate_instance(clip: Clip, rng: np.random.Generator, *, prob: float) -> bool:
    """Paste a copy of a clip's only object on top of it, shifted anew in every frame.

    The copy is a new object of the same class and of unknown identity; the original loses the
    pixels it covers. The direction is drawn once per clip, away from the border that the copy
    would leave by.

    Args:
        prob: of doing anything.

    Returns:
        True if a copy was pasted; False for several objects, or one that touches the left and the
        right border.
    """
    ids = {int(i) for objects in clip.objects for i in objects.ids}
    if rng.random() >= prob or len(ids) != 1:
        return False
    height, width = clip.size
    boxes = [boxes_of_masks(o.masks)[0] if len(o) else None for o in clip.objects]
    present = [f for f, box in enumerate(boxes) if box is not None and box[2] > box[0]]
    if not present or any(boxes[f][0] <= 0 and boxes[f][2] >= width for f in present):
        return False
    centre = np.mean([boxes[f].reshape(2, 2).mean(0) for f in present], 0)
    leave = (boxes[present[0]][0], width - boxes[present[0]][2])  # room on the left and the right
    if min(leave) <= 0.05 * width:
        right = 1 if leave[0] < leave[1] else -1
    else:
        right = 1 if rng.random() < 0.5 else -1
    down = 1 if centre[1] < height / 2 else -1
    mirror = bool(rng.random() < 0.5)
    new_id = max(ids) + 1
    for f in present:
        _paste(clip, f, boxes[f], new_id, (right, down), mirror, rng)
    clip.boxes_follow_masks = True
    return True


def _paste(
    clip: Clip,
    f: int,
    box: np.ndarray,
    new_id: int,
    direction: tuple[int, int],
    mirror: bool,
    rng: np.random.Generator,
) -> None:
    height, width = clip.size
    x0, y0, x1, y1 = (int(n) for n in box)
    dx = direction[0] * round(min(rng.uniform(0.75, 1.0) * (x1 - x0), 0.3 * width))
    dy = direction[1] * round(min(rng.uniform(0.0, 0.25) * (y1 - y0), 0.3 * height))
    objects = clip.objects[f]
    patch = clip.images[f][y0:y1, x0:x1].copy()
    shape = objects.masks[0, y0:y1, x0:x1].astype(bool)
    if mirror:
        patch, shape = patch[:, ::-1], shape[:, ::-1]
    top, left = max(y0 + dy, 0), max(x0 + dx, 0)
    bottom, right = min(y1 + dy, height), min(x1 + dx, width)
    if bottom <= top or right <= left:
        return
    inner = (slice(top - y0 - dy, bottom - y0 - dy), slice(left - x0 - dx, right - x0 - dx))
    copy = np.zeros((height, width), bool)
    copy[top:bottom, left:right] = shape[inner]
    clip.images[f] = clip.images[f].copy()
    clip.images[f][top:bottom, left:right][shape[inner]] = patch[inner][shape[inner]]
    masks = np.stack([objects.masks[0] & ~copy, copy.astype(np.uint8)])
    clip.objects[f] = Objects(
        masks.astype(np.uint8),
        np.array([objects.ids[0], new_id], np.int64),
        np.repeat(objects.classes[:1], 2),
        np.array([objects.identities[0], -1], np.int64),
        boxes_of_masks(masks),
    )
