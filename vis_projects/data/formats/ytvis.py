"""Videos in the YouTube-VIS json format: YouTube-VIS 2019, 2021, 2022, OVIS, and a user's own.

One annotation is one object of one video; ``segmentations``, ``bboxes`` and ``areas`` have an
entry per frame, null where the object is absent. ``annotations`` may be missing or null: no ground
truth.
"""

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
from .video_record import Video

_SIZES_CHECKED = 200  # first frames whose header is compared with the json


def load_ytvis_json(
    json_file: str | Path, image_root: str | Path
) -> tuple[list[Video], dict[str, Any]]:
    """Return the videos of a json, sorted by id, and metadata.

    An object's ``id`` is its annotation's id. The metadata has ``json_file`` only if there is
    ground truth; ``video_json`` always.

    Raises:
        InputError: the file is broken, inconsistent, or its images are somewhere else.
    """
    file, root = Path(json_file), Path(image_root)
    data = read_json(file)
    names, id_map = category_maps(data, file)
    rows = entries(data, "videos", file)
    ids = unique_ids(rows, "video", file)
    videos = {i: _video(row, f"{file}: video {i}", root) for i, row in zip(ids, rows)}
    annotations = data.get("annotations")
    if annotations is not None:
        annotations = field(data, "annotations", list, str(file))
        unique_ids(annotations, "annotation", file)
        for video in videos.values():
            video["annotations"] = [[] for _ in range(video["length"])]
        for row in annotations:
            _add_object(row, videos, id_map, f"{file}: annotation {row['id']}")
    _check_images(list(videos.values()), root, file)
    metadata = {
        "thing_classes": names,
        "thing_dataset_id_to_contiguous_id": id_map,
        "video_json": str(file),
        "image_root": str(root),
    }
    if annotations is not None:
        metadata["json_file"] = str(file)
    return [videos[i] for i in sorted(videos)], metadata


def _video(row: dict[str, Any], where: str, root: Path) -> Video:
    height, width = (field(row, key, int, where) for key in ("height", "width"))
    files = field(row, "file_names", list, where)
    length = row.get("length", len(files))
    if min(height, width) < 1:
        raise InputError(f"{where}: its size is {height} x {width}; both must be positive")
    if not files:
        raise InputError(f"{where}: it has no frames; remove it from the file")
    if length != len(files):
        raise InputError(f"{where}: length is {length} but file_names has {len(files)} entries")
    if not all(isinstance(f, str) for f in files):
        raise InputError(f"{where}: file_names holds something that is no text")
    return {
        "video_id": row["id"],
        "name": str(Path(as_posix(files[0])).parent),
        "file_names": [str(root / as_posix(f)) for f in files],
        "height": height,
        "width": width,
        "length": len(files),
        "objects": [],
        "annotations": None,
    }


def _add_object(
    row: dict[str, Any], videos: dict[int, Video], id_map: dict[int, int], where: str
) -> None:
    video_id = field(row, "video_id", int, where)
    category = field(row, "category_id", int, where)
    if video_id not in videos:
        raise InputError(f"{where}: there is no video {video_id} in this file")
    if category not in id_map:
        raise InputError(f"{where}: there is no category {category} in this file")
    if row["id"] < 1:
        raise InputError(f"{where}: annotation ids must be positive, start them at 1")
    video = videos[video_id]
    masks = field(row, "segmentations", list, where)
    boxes, areas = (_optional(row, key, video["length"], where) for key in ("bboxes", "areas"))
    for key, values in (("segmentations", masks), ("bboxes", boxes), ("areas", areas)):
        if len(values) != video["length"]:
            raise InputError(
                f"{where}: {key} has {len(values)} entries but video {video_id} has "
                f"{video['length']} frames"
            )
    crowd = flag(row, "iscrowd", where)
    size = (video["height"], video["width"])
    for t, (mask, frame_box, area) in enumerate(zip(masks, boxes, areas)):
        if not mask:
            continue
        mask = segmentation(mask, size, f"{where}, frame {t}")
        if mask is None:
            continue
        item = {
            "id": row["id"],
            "category_id": id_map[category],
            "bbox": box_of(frame_box, mask, f"{where}, frame {t}"),
            "bbox_mode": BoxMode.XYWH_ABS,
            "segmentation": mask,
            "iscrowd": crowd,
        }
        if isinstance(area, (int, float)) and area > 0:
            item["area"] = area
        video["annotations"][t].append(item)
    if not crowd:
        video["objects"].append({"id": row["id"], "category_id": id_map[category]})


def _optional(row: dict[str, Any], key: str, length: int, where: str) -> list[Any]:
    """Return a list with an entry per frame; of nulls if the key is missing or null."""
    return field(row, key, list, where) if row.get(key) is not None else [None] * length


def _check_images(videos: Sequence[Video], root: Path, file: Path) -> None:
    """Look at the first frame of every video, and at the size of some; ``check`` sees them all."""
    if not root.is_dir():
        raise InputError(
            f"{root}: no such folder of images for {file} (layouts: datasets/README.md)"
        )
    for video in videos:
        first = Path(video["file_names"][0])
        if not first.is_file():
            raise InputError(
                f"{first}: this frame of video {video['video_id']} in {file} is missing; images "
                "and annotations do not belong together, or the download is incomplete"
            )
    for video in videos[:: max(len(videos) // _SIZES_CHECKED, 1)]:
        where = f"{file}: video {video['video_id']}"
        check_size(video["file_names"][0], (video["height"], video["width"]), where)
