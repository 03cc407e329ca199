"""Human-object association: what a person holds stays one object (MSN, Section 3.1, stage 3).

The paper names the classes but gives no rule; this rule is chosen. Letters: N tracks, T frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from .pair_crops import tight_boxes


def pixels_near(persons: torch.Tensor, objects: torch.Tensor, margin: float = 0.1) -> torch.Tensor:
    """Pixels of each person inside each object's grown box, int64 (objects, persons).

    Args:
        persons: bool (P, H, W).
        objects: bool (O, H, W), none empty.
        margin: share of a box's sides by which it grows on each side, rounded up.
    """
    height, width = objects.shape[-2:]
    x0, y0, x1, y1 = tight_boxes(objects).unbind(1)
    # Rounded to nine places first, so that 0.1 * 10 does not become 2.
    dx, dy = (
        torch.ceil((margin * d.double()).round(decimals=9)).long() for d in (x1 - x0, y1 - y0)
    )
    x0, x1 = (x0 - dx).clamp(min=0), (x1 + dx).clamp(max=width)
    y0, y1 = (y0 - dy).clamp(min=0), (y1 + dy).clamp(max=height)
    sums = torch.nn.functional.pad(persons.long().cumsum(1).cumsum(2), (1, 0, 1, 0))
    return (sums[:, y1, x1] - sums[:, y0, x1] - sums[:, y1, x0] + sums[:, y0, x0]).T


def find_owners(
    masks_of_frame: Callable[[int, Sequence[int]], torch.Tensor],
    present: np.ndarray,
    classes: Sequence[int],
    *,
    person: int,
    held: Sequence[int],
    margin: float = 0.1,
) -> list[int]:
    """Return for each track the person track that holds it, -1 for none.

    Per frame it is the person with the most pixels inside the object's grown box (ties: the lower
    number); over the video the one that is so in at least half of the object's frames.

    Args:
        masks_of_frame: gives the masks (n, H, W) of the listed tracks in a frame.
        present: bool (N, T).
    """
    persons = [i for i, c in enumerate(classes) if c == person]
    objects = [i for i, c in enumerate(classes) if c in held]
    owners = [-1] * len(classes)
    if not persons or not objects:
        return owners
    counts = np.zeros((len(classes), len(classes)), np.int64)
    for t in range(present.shape[1]):
        seen = [i for i in objects if present[i, t]]
        around = [i for i in persons if present[i, t]]
        if not seen or not around:
            continue
        masks = masks_of_frame(t, [*around, *seen])
        pixels = pixels_near(masks[: len(around)], masks[len(around) :], margin)
        best, which = pixels.max(1)
        for i, n, k in zip(seen, best.tolist(), which.tolist()):
            if n > 0:
                counts[i, around[k]] += 1
    for i in objects:
        k = int(counts[i].argmax())
        if counts[i, k] > 0 and 2 * counts[i, k] >= present[i].sum():
            owners[i] = k
    return owners


def join_held(
    present: np.ndarray, classes: Sequence[int], owners: Sequence[int]
) -> list[list[int]]:
    """Groups of tracks that become one: same class and owner, no common frame.

    Tracks join in the order of their first frame; groups are ordered by their lowest number.
    """
    first = [int(p.argmax()) if p.any() else present.shape[1] for p in present]
    groups: list[list[int]] = []
    by_key: dict[tuple[int, int], list[list[int]]] = {}
    for i in sorted(range(len(classes)), key=lambda i: (first[i], i)):
        chosen = None
        if owners[i] >= 0:
            for group in by_key.setdefault((classes[i], owners[i]), []):
                if not (present[group].any(0) & present[i]).any():
                    chosen = group
                    break
        if chosen is not None:
            chosen.append(i)
            continue
        groups.append([i])
        if owners[i] >= 0:
            by_key[classes[i], owners[i]].append(groups[-1])
    return sorted((sorted(g) for g in groups), key=lambda g: g[0])
