"""Region similarity J and boundary accuracy F of label maps (DAVIS).

Letters: T frames, H x W pixels, G ground-truth objects, P predicted objects.

Both measures are the official ones, reached by other means: everything happens on the window
around all masks of a frame; J of all pairs comes from one confusion matrix; the boundaries of all
objects come from one comparison of the label map with its neighbours, since a pixel lies on the
boundary of object k exactly if k is among the labels of the pixel and its right, lower and
lower-right neighbours without being all of them; each object's boundary is dilated once, on a
crop, instead of once per pair; and a disk is dilated as the few rectangles whose union it is.
Source: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for VOS", section 4.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

VOID = 255
BOUND_THRESHOLD = 0.008  # tolerance as a share of the image diagonal
EXACT_FLOAT32 = 1 << 24  # cv2.calcHist returns its counts as float32


class SeriesStatistics(NamedTuple):
    """Mean, recall and decay of one object's values over time; NaN where nothing was evaluated."""

    mean: float
    recall: float
    decay: float


class _Boundaries(NamedTuple):
    """Boundary pixels of all objects of one label map; a pixel may belong to several objects."""

    rows: np.ndarray
    columns: np.ndarray
    labels: np.ndarray
    counts: np.ndarray  # pixels per label, index 0 is unused


def ids_of(label_map: np.ndarray) -> list[int]:
    """Return the ids in a uint8 label map, ascending, without the background."""
    left, top, width, height = cv2.boundingRect(label_map)
    inside = np.ascontiguousarray(label_map[top : top + height, left : left + width])
    if not width:
        return []
    counts = cv2.calcHist([inside], [0], None, [256], [0, 256]).ravel()
    return (np.flatnonzero(counts[1:]) + 1).tolist()


def boundary_radius(height: int, width: int) -> int:
    """Return the radius in pixels within which boundaries count as equal."""
    return math.ceil(BOUND_THRESHOLD * math.hypot(height, width))


def frame_measures(
    gt: np.ndarray,
    result: np.ndarray,
    *,
    num_gt: int,
    num_results: int,
    void: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return J and F of every pair of objects in one frame, two float64 arrays (G, P).

    ``gt`` and ``result`` are uint8 label maps (H, W); labels above ``num_gt`` or ``num_results``
    count as background. ``void`` (H, W) bool marks pixels that are removed from both.
    Raises ValueError if the shapes differ.
    """
    if gt.shape != result.shape or gt.ndim != 2:
        raise ValueError(f"label maps of shapes {gt.shape} and {result.shape} cannot be compared")
    radius = boundary_radius(*gt.shape)
    window = _window(gt, result)
    gt = _clean(gt[window], num_gt, None if void is None else void[window])
    result = _clean(result[window], num_results, None if void is None else void[window])
    if num_gt == num_results == 1:
        region, boundary = _one_pair(gt, result, radius)
        return np.full((1, 1), region), np.full((1, 1), boundary)
    region = _region_measure(gt, result, num_gt, num_results)
    boundary = _boundary_measure(gt, result, num_gt, num_results, radius)
    return region, boundary


def region_measures(
    gt: np.ndarray, result: np.ndarray, *, num_gt: int, num_results: int
) -> np.ndarray:
    """Return J alone, (G, P); arguments as ``frame_measures``."""
    window = _window(gt, result)
    gt, result = _clean(gt[window], num_gt, None), _clean(result[window], num_results, None)
    return _region_measure(gt, result, num_gt, num_results)


def sequence_measures(
    gt: np.ndarray,
    results: np.ndarray,
    *,
    num_gt: int | None = None,
    num_results: int | None = None,
    void: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return J and F of every pair of objects over time, two float64 arrays (T, G, P).

    ``gt`` and ``results`` are uint8 label maps (T, H, W), ``void`` is (T, H, W) bool. The numbers
    of objects default to the highest label; 255 in ``gt`` is background unless ``void`` says more.
    Raises ValueError if the lengths or sizes differ.
    """
    if len(gt) != len(results):
        raise ValueError(f"{len(gt)} ground-truth frames but {len(results)} result frames")
    if num_gt is None:
        num_gt = int(np.where(gt == VOID, 0, gt).max(initial=0))
    if num_results is None:
        num_results = int(results.max(initial=0))
    region = np.zeros((len(gt), num_gt, num_results))
    boundary = np.zeros((len(gt), num_gt, num_results))
    for t in range(len(gt)):
        region[t], boundary[t] = frame_measures(
            gt[t],
            results[t],
            num_gt=num_gt,
            num_results=num_results,
            void=None if void is None else void[t],
        )
    return region, boundary


def mask_measures(
    gt: np.ndarray, result: np.ndarray, *, void: np.ndarray | None = None
) -> tuple[float, float]:
    """Return J and F of one pair of masks (H, W): whatever is not 0 against whatever is not 0.

    ``void`` (H, W) marks pixels that are removed from both.
    """
    if gt.shape != result.shape or gt.ndim != 2:
        raise ValueError(f"masks of shapes {gt.shape} and {result.shape} cannot be compared")
    gt, result = (m if m.dtype == np.uint8 else (m != 0).view(np.uint8) for m in (gt, result))
    radius, window = boundary_radius(*gt.shape), _window(gt, result)
    gt, result = (np.minimum(m[window], np.uint8(1)) for m in (gt, result))
    if void is not None:
        kept = (~void[window].astype(bool)).view(np.uint8)
        gt, result = gt * kept, result * kept
    return _one_pair(gt, result, radius)


def series_statistics(values: np.ndarray) -> SeriesStatistics:
    """Return mean, recall (share above 0.5) and decay of values over time (T,).

    NaN marks frames that are not evaluated; they are left out. Decay is the mean of the first
    quarter minus the mean of the last; both edges of a quarter count, so quarters share a frame.
    The official code casts the edges to uint8 and goes wrong from 256 frames on: not here.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        return SeriesStatistics(math.nan, math.nan, math.nan)
    edges = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(np.int64) - 1
    first = values[edges[0] : edges[1] + 1]
    last = values[edges[3] : edges[4] + 1]
    return SeriesStatistics(
        float(np.mean(values)),
        float(np.mean(values > 0.5)),
        float(np.mean(first) - np.mean(last)),
    )


def _window(gt: np.ndarray, result: np.ndarray) -> tuple[slice, slice]:
    """Return the window around everything that is not background, one pixel wider.

    Its last row and column are background or the image's own, so that the rules of the boundary
    at the image's border hold in it, too.
    """
    gt, result = (np.ascontiguousarray(m, dtype=np.uint8) for m in (gt, result))
    left, top, width, height = cv2.boundingRect(np.maximum(gt, result))
    return (
        slice(max(top - 1, 0), top + height + 1),
        slice(max(left - 1, 0), left + width + 1),
    )


def _clean(label_map: np.ndarray, highest: int, void: np.ndarray | None) -> np.ndarray:
    """Set void pixels and labels above ``highest`` to background."""
    label_map = np.ascontiguousarray(label_map, dtype=np.uint8)
    if int(label_map.max(initial=0)) > highest:
        label_map = np.where(label_map > highest, np.uint8(0), label_map)
    if void is not None:
        label_map = np.where(void, np.uint8(0), label_map)
    return label_map


def _one_pair(gt: np.ndarray, result: np.ndarray, radius: int) -> tuple[float, float]:
    """Return J and F of two 0/1 masks, cut to their window.

    Arithmetic is numpy's: OpenCV's takes an array of up to four pixels for a scalar.
    """
    both = cv2.countNonZero(gt & result)
    union = cv2.countNonZero(gt) + cv2.countNonZero(result) - both
    region = both / union if union else 1.0
    edges = _edge(gt), _edge(result)
    counts = [cv2.countNonZero(edge) for edge in edges]
    if not counts[0] or not counts[1]:
        boundary = float(counts[0] == counts[1])
    else:
        boxes = [cv2.boundingRect(edge) for edge in edges]
        recall = _hits(edges[1], edges[0], boxes[0], radius) / counts[0]
        precision = _hits(edges[0], edges[1], boxes[1], radius) / counts[1]
        total = precision + recall
        boundary = 2 * precision * recall / total if total > 0 else 0.0
    return region, boundary


def _edge(mask: np.ndarray) -> np.ndarray:
    """Return the boundary map of a 0/1 mask; see ``_boundaries`` for its rules at the border."""
    edge = np.zeros_like(mask)
    edge[:, :-1] = mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def _hits(inner: np.ndarray, outer: np.ndarray, box: tuple[int, int, int, int], radius: int) -> int:
    """Count the pixels of ``outer``, all in ``box`` (x, y, w, h), near those of ``inner``."""
    left, top, width, height = box
    x, y = max(left - radius, 0), max(top - radius, 0)
    around = inner[y : top + height + radius, x : left + width + radius]
    near = _dilate_disk(around, radius)[top - y : top - y + height, left - x : left - x + width]
    return cv2.countNonZero(near & outer[top : top + height, left : left + width])


def _region_measure(
    gt: np.ndarray, result: np.ndarray, num_gt: int, num_results: int
) -> np.ndarray:
    """Return J (G, P) from the confusion matrix; an empty union gives 1."""
    columns = num_results + 1
    bins = (num_gt + 1) * columns
    if bins <= 256 and gt.size < EXACT_FLOAT32:
        joint = gt * np.uint8(columns) + result
        counts = cv2.calcHist([joint], [0], None, [256], [0, 256]).ravel()[:bins]
        confusion = counts.astype(np.int64)
    else:
        joint = gt.astype(np.int64) * columns + result
        confusion = np.bincount(joint.ravel(), minlength=bins)
    confusion = confusion.reshape(num_gt + 1, columns)
    intersection = confusion[1:, 1:]
    union = confusion.sum(1)[1:, None] + confusion.sum(0)[None, 1:] - intersection
    return np.where(union == 0, 1.0, intersection / np.maximum(union, 1))


def _boundary_measure(
    gt: np.ndarray, result: np.ndarray, num_gt: int, num_results: int, radius: int
) -> np.ndarray:
    """Return F (G, P): 1 if both boundaries are empty, 0 if exactly one is."""
    theirs = _boundaries(gt, num_gt)
    ours = _boundaries(result, num_results)
    result_hits = _hits_inside(theirs, ours, gt.shape, radius)  # (G, P): result near the truth
    gt_hits = _hits_inside(ours, theirs, gt.shape, radius).T  # (G, P): truth near the result
    gt_count = theirs.counts[1:, None]
    result_count = ours.counts[None, 1:]
    precision = result_hits / np.maximum(result_count, 1)
    recall = gt_hits / np.maximum(gt_count, 1)
    total = precision + recall
    score = np.where(total > 0, 2 * precision * recall / np.where(total > 0, total, 1), 0.0)
    return np.where((gt_count == 0) & (result_count == 0), 1.0, score)


def _boundaries(label_map: np.ndarray, highest: int) -> _Boundaries:
    """Return the boundary pixels of all objects of a label map (H, W).

    Past the last row and column the map continues with its own border, which gives the official
    rules there: last row, right neighbour only; last column, lower only; corner, never.
    """
    mixed = np.zeros(label_map.shape, dtype=bool)
    mixed[:, :-1] = label_map[:, :-1] != label_map[:, 1:]
    mixed[:-1] |= label_map[:-1] != label_map[1:]
    mixed[:-1, :-1] |= label_map[:-1, :-1] != label_map[1:, 1:]
    height, width = label_map.shape
    rows, columns = np.divmod(np.flatnonzero(mixed), width)
    below = np.minimum(rows + 1, height - 1)
    right = np.minimum(columns + 1, width - 1)
    labels = np.stack(
        [
            label_map[rows, columns],
            label_map[rows, right],
            label_map[below, columns],
            label_map[below, right],
        ]
    )
    # every label of the 2x2 block once, background never
    fresh = labels > 0
    fresh[1] &= labels[1] != labels[0]
    fresh[2] &= (labels[2] != labels[0]) & (labels[2] != labels[1])
    fresh[3] &= (labels[3] != labels[0]) & (labels[3] != labels[1]) & (labels[3] != labels[2])
    place = np.nonzero(fresh)[1]
    owners = labels[fresh]
    counts = np.bincount(owners, minlength=highest + 1)
    return _Boundaries(rows[place], columns[place], owners, counts)


def _hits_inside(
    inner: _Boundaries, outer: _Boundaries, shape: tuple[int, int], radius: int
) -> np.ndarray:
    """Count the pixels of each outer boundary within ``radius`` of each inner one: (inner, outer).

    The loop runs over the inner objects only; each dilates one crop and meets all outer pixels.
    """
    num_inner, num_outer = len(inner.counts) - 1, len(outer.counts) - 1
    hits = np.zeros((num_inner, num_outer), dtype=np.int64)
    if not len(inner.labels) or not len(outer.labels):
        return hits
    order = np.argsort(inner.labels, kind="stable")
    ends = np.cumsum(inner.counts)
    for k in np.flatnonzero(inner.counts[1:]):
        own = order[ends[k] : ends[k + 1]]
        rows, columns = inner.rows[own], inner.columns[own]
        top = max(int(rows.min()) - radius, 0)
        bottom = min(int(rows.max()) + radius + 1, shape[0])
        left = max(int(columns.min()) - radius, 0)
        right = min(int(columns.max()) + radius + 1, shape[1])
        near = (outer.rows >= top) & (outer.rows < bottom)
        near &= (outer.columns >= left) & (outer.columns < right)
        near = np.flatnonzero(near)
        if not len(near):
            continue
        crop = np.zeros((bottom - top, right - left), dtype=np.uint8)
        crop[rows - top, columns - left] = 1
        crop = _dilate_disk(crop, radius)
        met = crop[outer.rows[near] - top, outer.columns[near] - left] > 0
        hits[k] = np.bincount(outer.labels[near[met]], minlength=num_outer + 1)[1:]
    return hits


@lru_cache(maxsize=16)
def _disk_rectangles(radius: int) -> list[np.ndarray]:
    """Return kernels of ones whose union, centred, is the disk x^2 + y^2 <= radius^2."""
    half_heights = {math.isqrt(radius * radius - y * y): y for y in range(radius + 1)}
    return [np.ones((2 * y + 1, 2 * x + 1), np.uint8) for x, y in half_heights.items()]


def _dilate_disk(mask: np.ndarray, radius: int) -> np.ndarray:
    """Dilate a 0/1 uint8 mask by a disk, zero outside the image.

    Rectangles dilate row by row and column by column, which a disk does not.
    """
    first, *others = _disk_rectangles(radius)
    result = cv2.dilate(mask, first)
    for rectangle in others:
        result |= cv2.dilate(mask, rectangle)
    return result
