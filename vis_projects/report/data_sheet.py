"""A sheet of what a training sees of a data set: clips after sampling and augmentation."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..data.clips.clip_mapper import read_objects
from ..data.train_loader import build_clip_dataset
from ..structures import Frame, FrameResult, InputError
from ..video import OverlayPainter
from . import charts
from .page import Drawing, Section, Table, Tile, write_page

_FRAMES_COUNTED = 400  # frames whose objects are counted for the histograms
_ROWS = 260  # of one frame on the sheet; captions are drawn at this size, so they can be read


def write_data_sheet(cfg: CfgNode, folder: Path, *, clips: int = 12) -> Path:
    """Write ``sheet.png`` and ``sheet.html`` about ``cfg.DATASETS.TRAIN`` into a folder.

    The page holds the sheet, histograms (objects a frame, sizes, lengths, classes) and what the
    sampling leaves out and why.

    Raises:
        InputError: the data sets are not there, or nothing of them can be sampled.
    """
    dataset = build_clip_dataset(cfg)
    items = [dataset[i] for i in range(clips)]
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes", None)
    rows = [_clip(item, cfg.INPUT.FORMAT, names) for item in items]
    sheet = _stacked(rows)
    folder.mkdir(parents=True, exist_ok=True)
    good, data = cv2.imencode(".png", np.ascontiguousarray(sheet[..., ::-1]))
    if not good:
        raise InputError(f"{folder}: the sheet cannot be encoded")
    (folder / "sheet.png").write_bytes(data.tobytes())
    title = ", ".join(cfg.DATASETS.TRAIN)
    sections = [
        _facts(dataset),
        Section(
            "Training clips",
            "After sampling and augmentation, as the network gets them; a clip is a row.",
            figures=[Drawing(_picture(sheet), f"{clips} clips with boxes, masks, ids and classes")],
        ),
        _histograms(dataset, names),
    ]
    return write_page(folder / "sheet.html", title, "what a training sees", sections)


def _clip(item: dict[str, Any], image_format: str, names: Sequence[str] | None) -> list[np.ndarray]:
    """The frames of a training item, drawn, RGB."""
    out = []
    painter = OverlayPainter(image_format, names, boxes=True, show_scores=False, rows=_ROWS)
    still = not isinstance(item["image"], (list, tuple))
    images = [item["image"]] if still else item["image"]
    objects = [item["instances"]] if still else item["instances"]
    for t, (image, instances) in enumerate(zip(images, objects)):
        size = (int(image.shape[-2]), int(image.shape[-1]))
        masks = instances.gt_masks.tensor.bool() if len(instances) else None
        if masks is None:
            result = FrameResult.build(
                image.new_zeros((0, *size)).bool(), image.new_zeros(0).long(), index=t
            )
        else:
            result = FrameResult.build(
                masks, instances.gt_ids.long(), classes=instances.gt_classes.long(), index=t
            )
        out.append(painter.draw(Frame(image, t), result))
    return out


def _stacked(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Clips below each other, frames side by side, on white."""
    width = max(sum(f.shape[1] + 4 for f in row) for row in rows)
    sheet = np.full((len(rows) * (_ROWS + 6), width, 3), 255, np.uint8)
    for k, row in enumerate(rows):
        left = 0
        for frame in row:
            top = k * (_ROWS + 6)
            sheet[top : top + frame.shape[0], left : left + frame.shape[1]] = frame
            left += frame.shape[1] + 4
    return sheet


def _picture(sheet: np.ndarray) -> str:
    quality = [cv2.IMWRITE_JPEG_QUALITY, 85]
    data = cv2.imencode(".jpg", np.ascontiguousarray(sheet[..., ::-1]), quality)[1].tobytes()
    address = "data:image/jpeg;base64," + base64.b64encode(data).decode()
    # As large as it is: long clips are scrolled, not shrunk until nothing can be read.
    picture = f'<img src="{address}" alt="training clips" style="max-width:none">'
    return f'<div style="overflow-x:auto">{picture}</div>'


def _facts(dataset: Any) -> Section:
    videos = [video for own in dataset.videos for video in own]
    rows, lost = [], []
    for name, own, sampler in zip(dataset.names, dataset.videos, dataset.samplers):
        used = len(np.unique(sampler.keys[:, 0]))
        rows.append((name, len(own), used, sum(v["length"] for v in own), len(sampler)))
        counted = f"in {len(_some_frames(own))} frames that were looked at"
        reasons = [(n, why) for why, n in sampler.left_out().items()]
        reasons += [(n, f"{why} {counted}") for why, n in _left_out(own).items()]
        lost += [(name, n, why) for n, why in reasons] or [(name, 0, "nothing is left out")]
    tables = [
        Table(("data set", "videos", "of them used", "frames", "items"), rows, numbers=True),
        Table(("data set", "left out", "what and why"), lost),
    ]
    tiles = [
        Tile("videos", str(len(videos))),
        Tile("frames", str(sum(v["length"] for v in videos))),
        Tile("items of an epoch", str(len(dataset))),
    ]
    return Section("Data", tiles=tiles, tables=tables)


def _left_out(videos: Sequence[dict[str, Any]]) -> dict[str, int]:
    """What sampling cannot use, by reason, of the frames that are counted."""
    reasons: Counter[str] = Counter()
    for video, t in _some_frames(videos):
        annotations = video.get("annotations")
        if annotations is None:
            reasons["frames without annotations"] += 1
            continue
        if not len(read_objects(video, t).ids):
            reasons["frames without an object"] += 1
        rows = annotations[t] if isinstance(annotations, (list, tuple)) else ()
        reasons["crowds"] += sum(bool(a.get("iscrowd", 0)) for a in rows)
    return {why: count for why, count in reasons.items() if count}


def _some_frames(videos: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], int]]:
    places = [(video, t) for video in videos for t in range(video["length"])]
    step = max(1, len(places) // _FRAMES_COUNTED)
    return places[::step]


def _histograms(dataset: Any, names: Sequence[str] | None) -> Section:
    classes: Counter[str] = Counter()
    numbers, sizes = [], []
    videos = [video for own in dataset.videos for video in own]
    for video, t in _some_frames(videos):
        objects = read_objects(video, t)
        numbers.append(len(objects.ids))
        for category, mask in zip(objects.classes.tolist(), objects.masks):
            known = names is not None and category < len(names)
            classes[str(names[category]) if known else str(category)] += 1
            sizes.append(100 * np.sqrt(mask.mean()))
    lengths = [video["length"] for video in videos]
    figures = [
        Drawing(charts.histogram(numbers, label="objects in a frame"), "Objects in a frame"),
        Drawing(
            charts.histogram(sizes, label="side of an object, % of the frame's"),
            "Sizes: the root of an object's share of the frame",
        ),
        Drawing(charts.histogram(lengths, label="frames of a video"), "Lengths of the videos"),
        Drawing(charts.bars(classes, label="objects by class", unit=""), "Classes"),
    ]
    return Section("Histograms", f"Of {len(numbers)} frames.", figures=figures)
