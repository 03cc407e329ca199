"""Still images: COCO files, and Detectron2's dataset dicts seen as videos of one frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from ...structures import InputError, as_posix
from .json_files import (
    box_of,
    category_maps,
    check_size,
    entries,
    field,
    flag,
    read_json,
    segmentation,
    unique_ids,
)

_SIZES_CHECKED = 16  # images whose header is compared with the json


def load_coco_stills(
    json_file: str | Path, image_root: str | Path
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the images of a COCO json as one-frame videos, sorted by id, and metadata.

    Raises:
        InputError: the file is broken, inconsistent, or its images are somewhere else.
    """
    file, root = Path(json_file), Path(image_root)
    data = read_json(file)
    names, id_map = category_maps(data, file)
    rows = entries(data, "images", file)
    ids = unique_ids(rows, "image", file)
    records = {i: _image(row, f"{file}: image {i}", root) for i, row in zip(ids, rows)}
    annotations = data.get("annotations")
    if annotations is not None:
        annotations = field(data, "annotations", list, str(file))
        unique_ids(annotations, "annotation", file)
        for record in records.values():
            record["annotations"] = []
        for row in annotations:
            _add_object(row, records, id_map, f"{file}: annotation {row['id']}")
    order = sorted(records)
    first = Path(records[order[0]]["file_name"])
    if not first.is_file():
        raise InputError(
            f"{first}: the first image of {file} is missing; images and annotations do not belong "
            "together, or the download is incomplete"
        )
    for i in order[:: max(len(order) // _SIZES_CHECKED, 1)]:
        if Path(records[i]["file_name"]).is_file():
            size = (records[i]["height"], records[i]["width"])
            check_size(records[i]["file_name"], size, f"{file}: image {i}")
    metadata = {
        "thing_classes": names,
        "thing_dataset_id_to_contiguous_id": id_map,
        "image_root": str(root),
    }
    if annotations is not None and is_complete(data):
        metadata["json_file"] = str(file)
    return stills_as_videos([records[i] for i in order]), metadata


def is_complete(data: dict[str, Any]) -> bool:
    """Tell whether COCO's own tools can read a json: they ask for keys that people leave out.

    Others are scored on the annotations as they were loaded (Detectron2 writes them to a file).
    """
    return "info" in data and all(
        row.get("segmentation") and row.get("bbox") and "area" in row and "iscrowd" in row
        for row in data["annotations"]
    )


def _image(row: dict[str, Any], where: str, root: Path) -> dict[str, Any]:
    height, width = (field(row, key, int, where) for key in ("height", "width"))
    if min(height, width) < 1:
        raise InputError(f"{where}: its size is {height} x {width}; both must be positive")
    record = {
        "file_name": str(root / as_posix(field(row, "file_name", str, where))),
        "image_id": row["id"],
        "height": height,
        "width": width,
    }
    if row.get("ignored"):  # not COCO's: what prepare.py convert writes of Pascal VOC's void
        void = segmentation(row["ignored"], (height, width), where)
        record["ignored"] = [] if void is None else [void]
    return record


def _add_object(
    row: dict[str, Any], records: dict[int, Any], id_map: dict[int, int], where: str
) -> None:
    image, category = (field(row, key, int, where) for key in ("image_id", "category_id"))
    if image not in records:
        raise InputError(f"{where}: there is no image {image} in this file")
    if category not in id_map:
        raise InputError(f"{where}: there is no category {category} in this file")
    record = records[image]
    size = (record["height"], record["width"])
    mask = row.get("segmentation")
    mask = segmentation(mask, size, where) if mask else None
    if mask is None:  # a box without mask is of no use to any system here
        return
    record["annotations"].append(
        {
            "category_id": id_map[category],
            "bbox": box_of(row.get("bbox"), mask, where),
            "bbox_mode": BoxMode.XYWH_ABS,
            "segmentation": mask,
            "iscrowd": flag(row, "iscrowd", where),
        }
    )


def stills_as_videos(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one-frame videos of Detectron2 dataset dicts; an object's id is its index + 1.

    The original dict stays reachable under ``still``. Crowd regions keep their flag; samplers
    drop them, the clip mapper marks them and ``ignored`` regions.
    """
    videos = []
    for record in records:
        annotations = None
        objects = []
        if record.get("annotations") is not None:
            annotations = [[{"id": i, **a} for i, a in enumerate(record["annotations"], 1)]]
            objects = [
                {"id": a["id"], "category_id": a["category_id"]}
                for a in annotations[0]
                if not a.get("iscrowd", 0)
            ]
        video = {
            "video_id": record["image_id"],
            "name": Path(str(record.get("file_name", record["image_id"]))).stem,
            "height": record["height"],
            "width": record["width"],
            "length": 1,
            "objects": objects,
            "annotations": annotations,
            "still": record,
        }
        if record.get("ignored"):
            video["ignored"] = [record["ignored"]]
        if "source" in record:
            video["source"] = record["source"]
        else:
            video["file_names"] = [record["file_name"]]
        videos.append(video)
    return videos
