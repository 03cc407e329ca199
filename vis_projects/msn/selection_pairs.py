"""Pairs of masks with known quality, the training data of the selection network.

A pairs file is gzipped JSON: ``{"meta": {...}, "train": [...], "train_all": [...], "val": [...],
"val_all": [...]}``; "train" and "val" are balanced. A pair is ``{"dataset", "video", "frame", "a",
"b", "iou_a", "iou_b"}``: A the propagated, B the segmented mask (RLE), their IoU with the object's
true mask. Images stay in their data sets.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import polygons_to_bitmask
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from ..data.catalog import Video, load_videos
from ..data.clips.sampling_order import BatchOrder, EpochOrder
from ..data.test_loader import as_list, frame_source
from ..data.train_loader import TrainLoader
from ..structures import Frame, InputError, decode_mask, encode_masks
from .association import FrameDecision, mask_iou
from .pair_crops import pair_input

Pair = dict[str, Any]


def true_masks(video: Video, frame: int) -> torch.Tensor:
    """Bool (G, H, W) of a frame's annotated objects, crowds left out."""
    size = (video["height"], video["width"])
    masks = [torch.zeros((0, *size), dtype=torch.bool)]
    for item in video["annotations"][frame]:
        if item.get("iscrowd", 0):
            continue
        given = item["segmentation"]
        if isinstance(given, dict):
            mask = decode_mask(given)
        elif isinstance(given, list):
            mask = polygons_to_bitmask([np.asarray(p) for p in given], *size)
        else:
            mask = np.asarray(given)
        masks.append(torch.from_numpy(np.ascontiguousarray(mask, bool))[None])
    return torch.cat(masks)


def pairs_of_frame(
    truth: torch.Tensor,
    propagated: torch.Tensor,
    segmented: torch.Tensor,
    decision: FrameDecision,
    *,
    min_iou: float = 0.5,
) -> list[Pair]:
    """Pairs of a frame whose object is known: IoU of either mask with it at least ``min_iou``.

    Args:
        truth, propagated, segmented: bool (N, H, W).
        decision: stage 2's, for the pairs.
    """
    if not decision.pairs or len(truth) == 0:
        return []
    rows, tracks = ([p[k] for p in decision.pairs] for k in (0, 1))
    a, b = propagated[tracks].cpu(), segmented[rows].cpu()
    iou_a, iou_b = mask_iou(a, truth), mask_iou(b, truth)
    best, which = torch.maximum(iou_a, iou_b).max(1)
    keep = (best >= min_iou).nonzero()[:, 0].tolist()
    rles = zip(encode_masks(a[keep]), encode_masks(b[keep]))
    return [
        {
            "a": rle_a,
            "b": rle_b,
            "iou_a": float(iou_a[k, which[k]]),
            "iou_b": float(iou_b[k, which[k]]),
        }
        for k, (rle_a, rle_b) in zip(keep, rles)
    ]


def balanced(pairs: Sequence[Pair], limit: int, rng: np.random.Generator) -> list[Pair]:
    """At most ``limit`` pairs, as many in which A is better as in which B is; ties count for A."""
    better = np.array([p["iou_a"] >= p["iou_b"] for p in pairs], bool)
    sides = [np.flatnonzero(better), np.flatnonzero(~better)]
    count = min(len(sides[0]), len(sides[1]), limit // 2)
    chosen = np.concatenate([rng.permutation(s)[:count] for s in sides]).astype(int)
    return [pairs[i] for i in np.sort(chosen)]


def clear_pairs(pairs: Sequence[Pair], min_gap: float) -> list[Pair]:
    """Pairs whose two masks differ by at least ``min_gap`` in IoU."""
    return [p for p in pairs if abs(p["iou_a"] - p["iou_b"]) >= min_gap]


def split_pairs(
    by_video: Sequence[Sequence[Pair]],
    *,
    min_gap: float = 0.01,
    train: int = 80_000,
    val: int = 8_000,
    seed: int = 0,
) -> dict[str, list[Pair]]:
    """Split by video ten to one, drop pairs of nearly equal quality, sample down and balance.

    ``train_all`` and ``val_all`` are the parts as they come, sampled down but not balanced.
    """
    rng = np.random.default_rng(seed)
    clear = [clear_pairs(v, min_gap) for v in by_video]
    parts: dict[str, list[Pair]] = {"train": [], "val": []}
    for i, pairs in enumerate(clear):
        parts["val" if i % 11 == 10 else "train"] += pairs
    picked = np.sort(rng.permutation(len(parts["val"]))[:val])
    split = {
        "train": balanced(parts["train"], train, rng),
        "val": balanced(parts["val"], val, rng),
        "val_all": [parts["val"][i] for i in picked],
    }
    picked = np.sort(rng.permutation(len(parts["train"]))[:train])
    return {**split, "train_all": [parts["train"][i] for i in picked]}


def write_pairs(path: str | Path, parts: dict[str, list[Pair]], meta: dict[str, Any]) -> None:
    """Write a pairs file, whole or not at all."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with gzip.open(part, "wt") as file:
        json.dump({"meta": meta, **parts}, file)
    os.replace(part, target)


def read_pairs(paths: Sequence[str | Path], part: str) -> list[Pair]:
    """Return the pairs of one part ("train", "train_all", "val" or "val_all") of some files.

    Raises:
        InputError: no file named, a file missing or damaged, or no pair in them.
    """
    if not paths:
        raise InputError(
            "MODEL.MSN.SELECTOR.PAIRS names no file: make one with tools/make_selection_pairs.py"
        )
    pairs: list[Pair] = []
    for path in paths:
        try:
            with gzip.open(path, "rt") as file:
                data = json.load(file)
            pairs += data[part]
        except KeyError:
            raise InputError(
                f"{path}: has no part {part!r}; an earlier version made it: make it again with "
                "tools/make_selection_pairs.py"
            ) from None
        except (OSError, EOFError, ValueError) as error:
            raise InputError(
                f"{path}: no readable pairs file ({type(error).__name__}); make it with "
                "tools/make_selection_pairs.py"
            ) from None
    if not pairs:
        raise InputError(
            f"{', '.join(map(str, paths))}: no pair in the part {part!r}; generate on more videos"
        )
    return pairs


class FrameReader:
    """Reads frames of data sets by video id, in RGB."""

    def __init__(self) -> None:
        self._videos: dict[str, dict[Any, Video]] = {}
        self._read = lru_cache(maxsize=64)(self._load)

    def video(self, dataset: str, video_id: Any) -> Video:
        """The video dict.

        Raises:
            InputError: the data set has no such video.
        """
        if dataset not in self._videos:
            self._videos[dataset] = {v["video_id"]: v for v in load_videos(dataset)}
        if video_id not in self._videos[dataset]:
            raise InputError(f"data set {dataset} has no video {video_id}: other pairs file?")
        return self._videos[dataset][video_id]

    def _load(self, dataset: str, video_id: Any, frame: int) -> Frame:
        return frame_source(self.video(dataset, video_id), image_format="RGB")[frame]

    def image(self, pair: Pair) -> torch.Tensor:
        """RGB in [0, 1], (3, H, W)."""
        return self._read(pair["dataset"], pair["video"], pair["frame"]).image.float() / 255


def masks_of_pair(pair: Pair) -> tuple[torch.Tensor, torch.Tensor]:
    """The two masks, bool (1, H, W) each."""
    a, b = (torch.from_numpy(decode_mask(pair[k]))[None] for k in "ab")
    return a, b


class PairDataset(Dataset):
    """Training items ``{"pair": (8, S, S), "label": 1.0 if A is better}`` by sample number.

    Args:
        pairs: see the module.
        size, crop, swap_prob, flip_prob: see ``MODEL.MSN.SELECTOR``.
        seed: of order and augmentation; an item is a function of (seed, sample).
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        size: int = 256,
        crop: str = "union",
        swap_prob: float = 0.5,
        flip_prob: float = 0.5,
        seed: int = 0,
        reader: Callable[[Pair], torch.Tensor] | None = None,
    ) -> None:
        self.pairs, self.size, self.crop = list(pairs), size, crop
        self.swap_prob, self.flip_prob, self.seed = swap_prob, flip_prob, seed
        self.order = EpochOrder(len(self.pairs), seed=seed)
        self.read = reader or FrameReader().image

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, sample: int) -> dict[str, Any]:
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, 6, sample]))
        pair = self.pairs[self.order(sample)]
        a, b = masks_of_pair(pair)
        label = float(pair["iou_a"] >= pair["iou_b"])
        if rng.random() < self.swap_prob:
            a, b, label = b, a, 1.0 - label
        x = pair_input(self.read(pair), a, b, size=self.size, crop=self.crop)[0]
        if rng.random() < self.flip_prob:
            x = x.flip(-1)
        return {"pair": x, "label": label}


def build_pair_loader(cfg: Any) -> TrainLoader:
    """Return the resumable training loader over ``MODEL.MSN.SELECTOR.PAIRS``.

    Raises:
        InputError: see ``read_pairs``.
    """
    options, seed = cfg.MODEL.MSN.SELECTOR, max(cfg.SEED, 0)
    part = "train" if options.BALANCED else "train_all"
    given = read_pairs(options.PAIRS, part)
    pairs = clear_pairs(given, options.MIN_IOU_GAP)
    if options.BALANCED and len(pairs) < len(given):  # what is left out was not balanced
        pairs = balanced(pairs, len(pairs), np.random.default_rng(seed))
    if not pairs:
        raise InputError(
            f"no pair in the part {part!r} differs by MODEL.MSN.SELECTOR.MIN_IOU_GAP "
            f"{options.MIN_IOU_GAP}: lower it, or make more pairs"
        )
    dataset = PairDataset(
        pairs,
        size=options.SIZE,
        crop=options.CROP,
        swap_prob=options.SWAP_PROB,
        flip_prob=options.FLIP_PROB,
        seed=seed,
    )
    order = BatchOrder(
        cfg.SOLVER.IMS_PER_BATCH, seed=seed, rank=comm.get_rank(), world_size=comm.get_world_size()
    )
    loader = DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=as_list,
        persistent_workers=cfg.DATALOADER.NUM_WORKERS > 0,
    )
    return TrainLoader(loader, dataset, order)
