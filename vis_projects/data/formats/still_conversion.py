"""Pascal VOC and OpenImages instance masks as COCO json files: ``prepare.py convert``."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ...structures import InputError, encode_masks, image_size
from .label_maps import VOID, box_of_mask, read_label_map
from .video_folders import read_sequence_list

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip


def convert_voc(root: str | Path, split: str = "train", *, progress: bool = True) -> Path:
    """Write ``annotations/instances_<split>.json`` below a VOC folder; return the file.

    Args:
        root: holds ``JPEGImages``, ``SegmentationObject``, ``SegmentationClass`` and ``ImageSets``
            (the contents of ``VOCdevkit/VOC2012``).
        split: "train", "val" or "trainval".

    Raises:
        InputError: a file is missing or damaged.
    """
    root = Path(root)
    names = read_sequence_list(root / "ImageSets" / "Segmentation" / f"{split}.txt")
    images, annotations = [], []
    for number, name in enumerate(tqdm(names, desc="voc", disable=not progress), 1):
        height, width = image_size(root / "JPEGImages" / f"{name}.jpg")
        image = _image(number, f"{name}.jpg", height, width)
        images.append(image)
        objects = read_label_map(root / "SegmentationObject" / f"{name}.png")
        classes = read_label_map(root / "SegmentationClass" / f"{name}.png")
        if objects.shape != (height, width) or classes.shape != (height, width):
            raise InputError(f"{root}: image and masks of {name} differ in size")
        void = objects == VOID
        if void.any():  # difficult objects and all outlines: neither object nor background
            image["ignored"] = encode_masks(void[None])[0]
        for i in np.unique(objects[(objects > 0) & (objects < VOID)]):
            mask = objects == i
            category = int(np.bincount(classes[mask & (classes < VOID)], minlength=1).argmax())
            if 1 <= category <= len(VOC_CLASSES):
                annotations.append(_annotation(len(annotations) + 1, number, category, mask))
    categories = [{"id": i, "name": n} for i, n in enumerate(VOC_CLASSES, 1)]
    return _write(root, split, images, annotations, categories)


def convert_openimages(root: str | Path, split: str = "train", *, progress: bool = True) -> Path:
    """Write ``annotations/instances_<split>.json`` below an OpenImages folder; return the file.

    Args:
        root: holds ``<split>/<image>.jpg``, the masks in ``<split>-masks/<mask>.png``, and in
            ``annotations`` the files ``<split>-annotations-object-segmentation.csv`` and
            ``class-descriptions-boxable.csv``. Images that are not there are left out.
        split: "train", "validation" or "test".

    Raises:
        InputError: a file is missing or damaged, a csv has other columns.
    """
    root = Path(root)
    folder = root / "annotations"
    names = dict(_rows(folder / "class-descriptions-boxable.csv", 2))
    table = _openimages_table(folder / f"{split}-annotations-object-segmentation.csv")
    mids = sorted({row["LabelName"] for rows in table.values() for row in rows})
    number_of = {mid: i for i, mid in enumerate(mids, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, rows in tqdm(sorted(table.items()), desc="openimages", disable=not progress):
        file = root / split / f"{image_id}.jpg"
        if not file.is_file():
            continue
        height, width = image_size(file)
        images.append(_image(len(images) + 1, file.name, height, width))
        for row in rows:
            mask = _openimages_mask(root / f"{split}-masks" / row["MaskPath"], (height, width))
            if mask.any():
                category = number_of[row["LabelName"]]
                annotations.append(_annotation(len(annotations) + 1, len(images), category, mask))
    if not images:
        raise InputError(f"{root / split}: none of the annotated images is there")
    categories = [
        {"id": i, "name": names.get(mid, mid), "mid": mid} for mid, i in number_of.items()
    ]
    return _write(root, split, images, annotations, categories)


def _openimages_table(file: Path) -> dict[str, list[dict[str, str]]]:
    table: dict[str, list[dict[str, str]]] = {}
    try:
        with open(file, newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                table.setdefault(row["ImageID"], []).append(
                    {"LabelName": row["LabelName"], "MaskPath": row["MaskPath"]}
                )
    except OSError as error:
        raise InputError(f"{file}: cannot read this file ({error.strerror})") from None
    except KeyError as error:
        raise InputError(f"{file}: the column {error.args[0]!r} is missing") from None
    if not table:
        raise InputError(f"{file}: this table is empty")
    return table


def _openimages_mask(file: Path, size: tuple[int, int]) -> np.ndarray:
    """Masks may be smaller than their image: enlarge them by nearest pixels."""
    labels = read_label_map(file, binary=True)
    if labels.shape != size:
        resized = Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST)
        labels = np.asarray(resized)
    return labels > 0


def _rows(file: Path, columns: int) -> Iterator[list[str]]:
    try:
        with open(file, newline="", encoding="utf-8") as stream:
            for row in csv.reader(stream):
                if len(row) != columns:
                    raise InputError(f"{file}: a row has {len(row)} instead of {columns} columns")
                yield row
    except OSError as error:
        raise InputError(f"{file}: cannot read this file ({error.strerror})") from None


def _image(number: int, name: str, height: int, width: int) -> dict[str, Any]:
    return {"id": number, "file_name": name, "height": height, "width": width}


def _annotation(number: int, image: int, category: int, mask: np.ndarray) -> dict[str, Any]:
    x0, y0, x1, y1 = box_of_mask(mask)
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "iscrowd": 0,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": int(np.count_nonzero(mask)),
        "segmentation": encode_masks(mask[None])[0],
    }


def _write(root: Path, split: str, images: Any, annotations: Any, categories: Any) -> Path:
    file = root / "annotations" / f"instances_{split}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    data = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps(data))
    os.replace(part, file)
    return file
