"""Small copies of the real data sets, in their own folders and with what makes them hard:
uncompressed RLE, absent objects, crowds, overlaps, late objects, gaps in ids, all frames, void."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from vis_projects.data.catalog.class_maps import load_categories
from vis_projects.data.catalog.local_split import split_dataset, split_folds
from vis_projects.data.formats.still_conversion import (
    VOC_CLASSES,
    convert_openimages,
    convert_voc,
)
from vis_projects.structures import encode_masks

SIZE = (72, 100)  # not a multiple of any stride
VOID = 255
# (id, first frame, left, top, width, height, steps right and down a frame); later ones lie on top.
# Ids have a gap, 7 comes late.
OBJECTS = (
    (1, 0, 8, 10, 40, 44, 2, 1),
    (3, 0, 36, 20, 36, 40, -2, 1),
    (7, 2, 60, 6, 28, 30, -1, 2),
)
_ABSENT = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # ids that COCO leaves out of 1..90


def image(seed: int) -> np.ndarray:
    """A picture of coarse and fine random texture."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (9, 13, 3), np.uint8)
    fine = rng.integers(0, 60, (*SIZE, 3), np.uint8)
    return cv2.add(cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC) // 2, fine)


def masks(t: int) -> dict[int, np.ndarray]:
    """Whole masks, which overlap, of the objects of frame t."""
    out = {}
    for i, first, x, y, w, h, dx, dy in OBJECTS:
        if t >= first:
            mask = np.zeros(SIZE, bool)
            mask[max(y + dy * t, 0) : y + dy * t + h, max(x + dx * t, 0) : x + dx * t + w] = True
            out[i] = mask
    return out


def label_map(t: int, *, void: bool = False) -> np.ndarray:
    """Ids of frame t; ``void`` draws a band of it."""
    labels = np.zeros(SIZE, np.uint8)
    for i, mask in masks(t).items():
        labels[mask] = i
    if void:
        labels[:4] = VOID
    return labels


def write_frames(folder: Path, length: int, *, step: int = 1, seed: int = 0) -> list[str]:
    """Write JPEGs named as the benchmarks do; a frame shows its objects in flat colours."""
    folder.mkdir(parents=True, exist_ok=True)
    stems = []
    for t in range(length):
        picture = image(seed)
        for i, mask in masks(t).items():
            picture[mask] = (60 * i % 255, 200 - 20 * i, 30 * i + seed)
        stems.append(f"{t * step:05d}")
        cv2.imwrite(str(folder / f"{stems[-1]}.jpg"), picture)
    return stems


def write_png(file: Path, labels: np.ndarray) -> None:
    """Write an indexed PNG with a palette."""
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(labels, "P")
    picture.putpalette([k % 256 for k in range(768)])
    picture.save(file)


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    """A mask as RLE with its runs as a list, YouTube-VIS 2019's form."""
    flat = np.concatenate([[0], mask.ravel(order="F").astype(np.int8), [2]])
    edges = np.flatnonzero(np.diff(flat))
    runs = np.diff(np.concatenate([[0], edges])).tolist()
    return {"size": list(mask.shape), "counts": runs}


def box(mask: np.ndarray) -> list[float]:
    ys, xs = np.nonzero(mask)
    return [float(v) for v in (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)]


def ytvis(root: Path, name: str, *, videos: int = 4, length: int = 4, runs: bool = False) -> None:
    """YouTube-VIS or OVIS: train and valid; object 7 is null before frame 2, one is a crowd."""
    categories = load_categories(name)
    folder = root / name
    places = {"train": ("train.json", "train"), "valid": ("valid.json", "valid")}
    if name == "ovis":
        places = {s: (f"annotations/annotations_{s}.json", s) for s in places}
    for split, (file, images) in places.items():
        images = folder / images if name == "ovis" else folder / images / "JPEGImages"
        rows, annotations = [], []
        for v in range(1, videos // (1 if split == "train" else 2) + 1):
            video = f"{split[0]}{v:03d}ab"
            stems = write_frames(images / video, length, step=5, seed=v)
            rows.append(
                {"id": v, "file_names": [f"{video}/{s}.jpg" for s in stems], "length": length,
                 "height": SIZE[0], "width": SIZE[1]}
            )  # fmt: skip
            for k, (i, *_) in enumerate(OBJECTS):
                category = categories[(7 * v + k) % len(categories)]["id"]
                found = [masks(t).get(i) for t in range(length)]
                encode = uncompressed if runs else (lambda m: encode_masks(m[None])[0])
                annotations.append(
                    {"id": len(annotations) + 1, "video_id": v, "width": SIZE[1],
                     "height": SIZE[0], "category_id": category,
                     "iscrowd": int(i == 3 and v == 2),
                     "segmentations": [None if m is None else encode(m) for m in found],
                     "bboxes": [None if m is None else box(m) for m in found],
                     "areas": [None if m is None else int(m.sum()) for m in found]}
                )  # fmt: skip
        data: dict[str, Any] = {"info": {}, "videos": rows, "categories": categories}
        if split == "train":
            data["annotations"] = annotations
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(json.dumps(data))


def youtube_vos(root: Path, year: int, *, videos: int = 4, length: int = 6) -> None:
    """YouTube-VOS: labels on every frame in train, where objects start in valid; all frames."""
    base = root / f"youtube_vos_{year}"
    for split in ("train", "valid"):
        meta: dict[str, Any] = {"videos": {}}
        for v in range(videos if split == "train" else 2):
            video = f"{v:04d}{split[0]}0f"
            for folder, step in ((split, 5), (f"{split}_all_frames", 1)):
                count = length if step == 5 else (length - 1) * 5 + 1
                write_frames(base / folder / "JPEGImages" / video, count, step=step, seed=v)
            stems = [f"{t * 5:05d}" for t in range(length)]
            first = {i: start for i, start, *_ in OBJECTS}
            for t, stem in enumerate(stems):
                if split == "train" or t in first.values():
                    file = base / split / "Annotations" / video / f"{stem}.png"
                    write_png(file, label_map(t))
            objects = {
                str(i): {"category": "person", "frames": stems[start:]}
                for i, start in first.items()
            }
            meta["videos"][video] = {"objects": objects}
        (base / split / "meta.json").write_text(json.dumps(meta))


def davis(root: Path, *, length: int = 6) -> None:
    """DAVIS 2016, 2017 and 2019 in one tree, with void; three objects without supervision."""
    base = root / "DAVIS"
    names = {"train": ("bear", "bus"), "val": ("camel", "goat")}
    for k, name in enumerate(n for split in names.values() for n in split):
        write_frames(base / "JPEGImages" / "480p" / name, length, seed=20 + k)
        for t in range(length):
            start = np.where(label_map(t) == 7, 0, label_map(t, void=True))  # 7 is not in frame 0
            for folder, labels in (
                ("Annotations", start),
                ("Annotations_unsupervised", label_map(t, void=True)),
            ):
                write_png(base / folder / "480p" / name / f"{t:05d}.png", labels.astype(np.uint8))
    for year in (2016, 2017):
        folder = base / "ImageSets" / str(year)
        folder.mkdir(parents=True)
        for split, members in names.items():
            (folder / f"{split}.txt").write_text("\n".join(members) + "\n")


def coco(root: Path, names: dict[int, str], *, count: int = 4) -> None:
    """COCO 2017: 80 categories, polygons that overlap, an RLE crowd, an image without objects."""
    for split in ("train", "val"):
        folder = root / "coco" / f"{split}2017"
        folder.mkdir(parents=True)
        images, annotations = [], []
        for n in range(1, count + 1):
            file = f"{n:012d}.jpg"
            cv2.imwrite(str(folder / file), image(40 + n))
            images.append({"id": n, "file_name": file, "height": SIZE[0], "width": SIZE[1]})
            if n == count:
                continue
            for k, mask in enumerate(masks(2).values()):
                x, y, w, h = box(mask)
                polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": n, "iscrowd": 0, "bbox": [x, y, w, h],
                     "area": w * h, "segmentation": polygon, "category_id": (24, 22, 1)[k]}
                )  # fmt: skip
            crowd = np.zeros(SIZE, bool)
            crowd[:, 84:] = True
            annotations.append(
                {"id": len(annotations) + 1, "image_id": n, "iscrowd": 1, "bbox": box(crowd),
                 "area": int(crowd.sum()), "segmentation": uncompressed(crowd), "category_id": 52}
            )  # fmt: skip
        categories = [
            {"id": i, "name": names.get(i, f"thing {i}")} for i in range(1, 91) if i not in _ABSENT
        ]
        data = {"images": images, "annotations": annotations, "categories": categories}
        file = root / "coco" / "annotations" / f"instances_{split}2017.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(data))


def coco_clean(root: Path, *, count: int = 7) -> None:
    """Stills in the COCO format from which videos are made: larger, as cut-outs need 48 pixels."""
    folder = root / "coco_clean"
    (folder / "images").mkdir(parents=True)
    data: dict[str, Any] = {"images": [], "annotations": []}
    data["categories"] = [{"id": 1, "name": "person"}]
    for n in range(1, count + 1):
        file = f"{n:012d}.jpg"
        picture = cv2.resize(image(100 + n), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / "images" / file), picture)
        height, width = picture.shape[:2]
        data["images"].append({"id": n, "file_name": file, "height": height, "width": width})
        for mask in masks(0).values():
            x, y, w, h = (2 * v for v in box(mask))
            data["annotations"].append(
                {"id": len(data["annotations"]) + 1, "image_id": n, "iscrowd": 0,
                 "bbox": [x, y, w, h], "area": w * h, "category_id": 1,
                 "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
            )  # fmt: skip
    (folder / "instances.json").write_text(json.dumps(data))


def voc(root: Path) -> None:
    """Pascal VOC with void outlines, converted by prepare.py's function."""
    base = root / "voc"
    for split in ("train", "val"):
        names = [f"2007_{split[0]}{n:05d}" for n in range(3)]
        for n, name in enumerate(names):
            file = base / "JPEGImages" / f"{name}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), image(60 + n))
            objects = label_map(0, void=True)
            classes = np.where(
                (objects > 0) & (objects < VOID), VOC_CLASSES.index("dog") + 1, objects
            )
            write_png(base / "SegmentationObject" / f"{name}.png", objects)
            write_png(base / "SegmentationClass" / f"{name}.png", classes.astype(np.uint8))
        file = base / "ImageSets" / "Segmentation" / f"{split}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(names) + "\n")
        convert_voc(base, split, progress=False)


def openimages(root: Path, classes: list[tuple[str, str]]) -> None:
    """OpenImages' csv tables and mask PNGs, converted by prepare.py's function."""
    base = root / "openimages"
    folder = base / "annotations"
    folder.mkdir(parents=True)
    with open(folder / "class-descriptions-boxable.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(classes)
    with open(folder / "train-annotations-object-segmentation.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["MaskPath", "ImageID", "LabelName"])
        for n in range(3):
            (base / "train").mkdir(exist_ok=True)
            cv2.imwrite(str(base / "train" / f"img{n}.jpg"), image(80 + n))
            for k, mask in enumerate(masks(0).values()):
                file = base / "train-masks" / f"img{n}_{k}.png"
                file.parent.mkdir(exist_ok=True)
                Image.fromarray(mask).save(file)
                writer.writerow([file.name, f"img{n}", classes[k % len(classes)][0]])
    convert_openimages(base, "train", progress=False)


def write_all(root: Path, source_names: dict[str, dict[str, str]]) -> Iterator[str]:
    """Write every data set that a config names below ``root`` (= $DETECTRON2_DATASETS).

    Args:
        source_names: names of the classes of other sets that the class maps expect, by map.
    """
    ytvis(root, "ytvis_2019", runs=True)
    ytvis(root, "ytvis_2021")
    ytvis(root, "ovis")
    youtube_vos(root, 2018)
    youtube_vos(root, 2019)
    davis(root)
    names: dict[int, str] = {}
    for key, entries in source_names.items():
        if "/coco/" in key:
            names.update({int(i): n for i, n in entries.items()})
    coco(root, names)
    coco_clean(root)
    voc(root)
    openimages(root, list(source_names["msn/openimages/ytvis_2021"].items())[:3])
    for name in ("ytvis_2019", "ytvis_2021", "ovis", "youtube_vos_2018", "youtube_vos_2019"):
        split_dataset(name, count=2)
        yield name
    split_folds("ytvis_2021", 2)
