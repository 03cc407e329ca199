"""Slow, obvious versions of the metrics, written straight from their definitions.

Tests compare the fast ones with them; ``benchmarks/metrics.py`` times both in one run.
"""

from __future__ import annotations

import math
from collections import defaultdict

import cv2
import numpy as np
from pycocotools import mask as mask_util
from scipy.optimize import linear_sum_assignment

# J and F ------------------------------------------------------------------------------------------


def boundary_map(mask: np.ndarray) -> np.ndarray:
    """Boundary of a binary mask: it differs from the right, lower or lower-right neighbour."""
    height, width = mask.shape
    out = np.zeros((height, width), bool)
    out[:-1, :-1] = (
        (mask[:-1, :-1] != mask[:-1, 1:])
        | (mask[:-1, :-1] != mask[1:, :-1])
        | (mask[:-1, :-1] != mask[1:, 1:])
    )
    out[-1, :-1] = mask[-1, :-1] != mask[-1, 1:]
    out[:-1, -1] = mask[:-1, -1] != mask[1:, -1]
    return out


def pair_measures(gt: np.ndarray, mask: np.ndarray, void: np.ndarray) -> tuple[float, float]:
    """J and F of two binary masks."""
    gt, mask = gt & ~void, mask & ~void
    union = (gt | mask).sum()
    region = 1.0 if union == 0 else (gt & mask).sum() / union
    height, width = gt.shape
    r = math.ceil(0.008 * math.sqrt(height**2 + width**2))
    y, x = np.mgrid[-r : r + 1, -r : r + 1]
    disk = (x * x + y * y <= r * r).astype(np.uint8)
    gt_edge, edge = boundary_map(gt), boundary_map(mask)
    if not gt_edge.any() and not edge.any():
        return region, 1.0
    if not gt_edge.any() or not edge.any():
        return region, 0.0
    precision = (edge & (cv2.dilate(gt_edge.astype(np.uint8), disk) > 0)).sum() / edge.sum()
    recall = (gt_edge & (cv2.dilate(edge.astype(np.uint8), disk) > 0)).sum() / gt_edge.sum()
    total = precision + recall
    return region, 0.0 if total == 0 else 2 * precision * recall / total


def unsupervised(gt: np.ndarray, results: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """J and F (T, G) of the objects' best assignment, pair by pair on stacks of masks."""
    num_gt = int(np.where(gt[0] == 255, 0, gt[0]).max())
    num_results = max(int(results.max()), num_gt)
    void = gt == 255
    objects = np.stack([gt == k + 1 for k in range(num_gt)]).astype(np.float64)
    proposals = np.stack([results == k + 1 for k in range(num_results)]).astype(np.float64)
    region = np.zeros((len(gt), num_gt, num_results))
    boundary = np.zeros_like(region)
    for t in range(len(gt)):
        for g in range(num_gt):
            for p in range(num_results):
                region[t, g, p], boundary[t, g, p] = pair_measures(
                    objects[g, t] > 0, proposals[p, t] > 0, void[t]
                )
    score = ((region + boundary) / 2).mean(0).T
    rows, columns = linear_sum_assignment(-score)
    chosen = dict(zip(columns, rows))
    best = [chosen[g] for g in range(num_gt)]
    every = np.arange(num_gt)
    return region[:, every, best], boundary[:, every, best]


# AP over tubes ------------------------------------------------------------------------------------

AREAS = ((0, 1e10), (0, 128**2), (128**2, 256**2), (256**2, 1e10))
THRESHOLDS = np.linspace(0.5, 0.95, 10)


def _rle(mask, video):
    if mask is None:
        return mask_util.encode(np.zeros((video["height"], video["width"]), np.uint8, order="F"))
    if isinstance(mask, list):
        return mask_util.merge(mask_util.frPyObjects(mask, video["height"], video["width"]))
    if isinstance(mask["counts"], list):
        return mask_util.frPyObjects(mask, video["height"], video["width"])
    return mask


def _tube_iou(track, thing) -> float:
    intersection = union = 0.0
    for d, g in zip(track, thing):
        if d is not None and g is not None:
            intersection += mask_util.area(mask_util.merge([d, g], True))
            union += mask_util.area(mask_util.merge([d, g], False))
        elif d is not None or g is not None:
            union += mask_util.area(d if d is not None else g)
    return intersection / union if union else 0.0


def _mean_positive(values) -> float:
    values = [v for v in values if v]
    return sum(values) / len(values) if values else 0.0


def ytvis(ground_truth: dict, results: list) -> dict[str, float]:
    """The twelve numbers of YouTube-VIS, -1 where there is nothing to average."""
    videos = {v["id"]: v for v in ground_truth["videos"]}
    objects, tracks = defaultdict(list), defaultdict(list)
    for entry in ground_truth["annotations"]:
        masks = [
            m if m is None else _rle(m, videos[entry["video_id"]]) for m in entry["segmentations"]
        ]
        size = _mean_positive(entry["areas"])
        objects[entry["video_id"], entry["category_id"]].append((masks, size, entry["iscrowd"]))
    for entry in results:
        masks = entry["segmentations"]
        size = _mean_positive([0 if m is None else int(mask_util.area(m)) for m in masks])
        # the official tool computes the boxes too, and never uses them
        [mask_util.toBbox(m) for m in masks if m is not None]
        tracks[entry["video_id"], entry["category_id"]].append((masks, size, entry["score"]))
    categories = sorted(c["id"] for c in ground_truth["categories"])
    precision = -np.ones((10, 101, len(categories), 4, 3))
    recall = -np.ones((10, len(categories), 4, 3))
    for k, category in enumerate(categories):
        matched = [_match(objects[v, category], tracks[v, category]) for v in sorted(videos)]
        for a in range(4):
            for m, limit in enumerate((1, 10, 100)):
                _accumulate(
                    [x[a] for x in matched], limit, precision[:, :, k, a, m], recall[:, k, a, m]
                )
    return _summary(precision, recall)


def _match(things, tracks):
    """Greedy matching in one video; per area range (scores, matched, ignored, number)."""
    tracks = sorted(tracks, key=lambda t: -t[2])[:100]
    iou = [[_tube_iou(t[0], g[0]) for g in things] for t in tracks]
    out = []
    for low, high in AREAS:
        ignore = [bool(g[2]) or g[1] < low or g[1] > high for g in things]
        order = sorted(range(len(things)), key=lambda g: ignore[g])
        matched = np.zeros((10, len(tracks)), bool)
        ignored = np.zeros((10, len(tracks)), bool)
        for s, threshold in enumerate(THRESHOLDS):
            taken = set()
            for d in range(len(tracks)):
                best, m = min(threshold, 1 - 1e-10), None
                for g in order:
                    if g in taken and not things[g][2]:
                        continue
                    if m is not None and not ignore[m] and ignore[g]:
                        break
                    if iou[d][g] >= best:
                        best, m = iou[d][g], g
                if m is not None:
                    matched[s, d], ignored[s, d] = True, ignore[m]
                    taken.add(m)
                else:
                    ignored[s, d] = tracks[d][1] < low or tracks[d][1] > high
        out.append(([t[2] for t in tracks], matched, ignored, ignore.count(False)))
    return out


def _accumulate(videos, limit, precision, recall) -> None:
    total = sum(v[3] for v in videos)
    if total == 0:
        return
    scores = np.concatenate([v[0][:limit] for v in videos])
    order = np.argsort(-scores, kind="mergesort")
    matched = np.concatenate([v[1][:, :limit] for v in videos], 1)[:, order]
    counts = ~np.concatenate([v[2][:, :limit] for v in videos], 1)[:, order]
    for s in range(10):
        tp = np.cumsum(matched[s] & counts[s]).astype(float)
        fp = np.cumsum(~matched[s] & counts[s]).astype(float)
        rc, pr = tp / total, (tp / (tp + fp + np.spacing(1))).tolist()
        recall[s] = rc[-1] if len(rc) else 0
        for i in range(len(pr) - 1, 0, -1):
            pr[i - 1] = max(pr[i - 1], pr[i])
        for i, place in enumerate(np.searchsorted(rc, np.linspace(0, 1, 101), side="left")):
            precision[s, i] = pr[place] if place < len(pr) else 0


def _summary(precision, recall) -> dict[str, float]:
    def mean(x):
        return float(x[x > -1].mean()) if (x > -1).any() else -1.0

    return {
        "AP": mean(precision[..., 0, 2]),
        "AP50": mean(precision[0, ..., 0, 2]),
        "AP75": mean(precision[5, ..., 0, 2]),
        "APs": mean(precision[..., 1, 2]),
        "APm": mean(precision[..., 2, 2]),
        "APl": mean(precision[..., 3, 2]),
        "AR1": mean(recall[..., 0, 0]),
        "AR10": mean(recall[..., 0, 1]),
        "AR100": mean(recall[..., 0, 2]),
        "ARs": mean(recall[..., 1, 2]),
        "ARm": mean(recall[..., 2, 2]),
        "ARl": mean(recall[..., 3, 2]),
    }
