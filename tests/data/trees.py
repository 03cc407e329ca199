"""Small data sets in the exact folder layout of the originals, written from the synthetic one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from vis_projects.data import load_synthetic, parse_name
from vis_projects.data.synthetic import ytvis_ground_truth

PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] + [i // 3 for i in range(12, 768)]


def clips(task: str = "vos", *, videos: int = 2, length: int = 5) -> list[dict[str, Any]]:
    """Return synthetic videos to fill a tree with."""
    form = "" if task == "vis" else f"{task}_"
    return load_synthetic(parse_name(f"synthetic_{form}train:videos={videos}:length={length}"))[0]


def write_png(file: Path, labels: np.ndarray, mode: str = "P") -> None:
    """Write a label image; mode "P" has a palette as the benchmarks' own files."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(labels, np.uint8))
    if mode == "P":
        image = image.convert("P")
        image.putdata(np.asarray(labels).ravel().tolist())
        image.putpalette(PALETTE)
    image.save(file)


def write_frames(folder: Path, video: dict[str, Any], *, step: int = 1) -> list[str]:
    """Write a video's frames as JPEGs named as the benchmarks do; return the stems."""
    folder.mkdir(parents=True, exist_ok=True)
    source = video["source"]("BGR")
    stems = [f"{t * step:05d}" for t in range(video["length"])]
    for t, stem in enumerate(stems):
        cv2.imwrite(str(folder / f"{stem}.jpg"), source.read(t))
    return stems


def davis(root: Path, *, year: int = 2017, names: tuple[str, ...] = ("camel", "goat")) -> Path:
    """Write ``root/DAVIS`` with one validation list."""
    base = root / "DAVIS"
    folder = "Annotations_unsupervised" if year == 2019 else "Annotations"
    for name, video in zip(names, clips()):
        stems = write_frames(base / "JPEGImages" / "480p" / name, video)
        for t, stem in enumerate(stems):
            labels = video["annotations"].label_map(t).copy()
            if year == 2016:
                labels = np.where(labels > 0, 255, 0)
            else:
                labels[0, :3] = 255  # void
            file = base / folder / "480p" / name / f"{stem}.png"
            write_png(file, labels, "L" if year == 2016 else "P")
    lists = base / "ImageSets" / ("2017" if year == 2019 else str(year))
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "val.txt").write_text("\n".join(names) + "\n")
    return base


def ytvis_json(*, videos: int = 2, length: int = 4, uncompressed: bool = True) -> dict[str, Any]:
    """Return a ground-truth dict as the released files have it: uncompressed RLE, nulls."""
    found = clips("vis", videos=videos, length=length)
    truth = ytvis_ground_truth(found, ("disc", "box", "triangle", "star"))
    for annotation in truth["annotations"]:
        if uncompressed:
            annotation["segmentations"] = [uncompress(r) for r in annotation["segmentations"]]
        annotation["segmentations"][1] = annotation["bboxes"][1] = annotation["areas"][1] = None
    for video in truth["videos"]:
        video["file_names"] = [f.replace(".png", ".jpg") for f in video["file_names"]]
    return truth


def uncompress(rle: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return an RLE with its runs as a list."""
    if rle is None:
        return None
    from pycocotools import mask as mask_util

    flat = np.concatenate([[0], mask_util.decode(rle).ravel(order="F"), [2]])
    edges = np.flatnonzero(np.diff(flat))
    runs = np.diff(np.concatenate([[0], edges])).tolist()
    return {"size": rle["size"], "counts": runs}


def write_ytvis(file: Path, images: Path, truth: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write a json and its frames; returns the json's content."""
    truth = truth or ytvis_json()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(truth))
    for video, row in zip(clips("vis", videos=len(truth["videos"]), length=4), truth["videos"]):
        write_frames(images / Path(row["file_names"][0]).parent, video)
    return truth


def youtube_vos(root: Path, split: str = "valid") -> dict[str, Any]:
    """Write a YouTube-VOS split; object 2 starts two frames after the others; returns meta.json."""
    meta: dict[str, Any] = {"videos": {}}
    for name, video in zip(("003234408d", "0043f083b5"), clips()):
        stems = write_frames(root / split / "JPEGImages" / name, video, step=5)
        objects = {}
        for o in video["objects"]:
            start = 2 if o["id"] == 2 else 0
            objects[str(o["id"])] = {"category": "fish", "frames": stems[start:]}
        for t, stem in enumerate(stems):
            if split == "train" or t in (0, 2):
                labels = video["annotations"].label_map(t).copy()
                if t < 2:
                    labels[labels == 2] = 0
                write_png(root / split / "Annotations" / name / f"{stem}.png", labels)
        meta["videos"][name] = {"objects": objects}
    (root / split / "meta.json").write_text(json.dumps(meta))
    return meta


def coco(root: Path) -> dict[str, Any]:
    """Write a COCO json with polygons, an RLE crowd and images; returns the json's content."""
    images = root / "images"
    images.mkdir(parents=True, exist_ok=True)
    square = [[10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0]]
    crowd = {"size": [48, 64], "counts": [0, 48 * 8, 48 * 56]}
    data: dict[str, Any] = {
        "images": [
            {"id": i, "file_name": f"{i:012d}.jpg", "height": 48, "width": 64} for i in (7, 3)
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 18, "bbox": [10, 10, 20, 20], "iscrowd": 0,
             "segmentation": square, "area": 400},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 8, 48], "iscrowd": 1,
             "segmentation": crowd, "area": 384},
            {"id": 3, "image_id": 3, "category_id": 1, "bbox": [10, 10, 20, 20], "iscrowd": 0,
             "segmentation": [*square, [1.0, 2.0]], "area": 400},
        ],
    }  # fmt: skip
    for row in data["images"]:
        cv2.imwrite(str(images / row["file_name"]), np.full((48, 64, 3), 90, np.uint8))
    (root / "instances.json").write_text(json.dumps(data))
    return data
