"""Videos in the YouTube-VIS json format: YouTube-VIS 2019, 2021, 2022, OVIS, and a user's own.

One annotation is one object of one video; ``segmentations``, ``bboxes`` and ``areas`` have an
entry per frame, null where the object is absent. ``annotations`` may be missing or null: no ground
truth.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from ...structures import InputError
from .json_files import box, category_maps, entries, field, read_json, segmentation, unique_ids
from .video_record import Video


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
    _check_images(videos.values(), root, file)
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
        "name": str(Path(files[0]).parent),
        "file_names": [str(root / f) for f in files],
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
    masks, boxes = (field(row, key, list, where) for key in ("segmentations", "bboxes"))
    areas = row.get("areas") or [None] * video["length"]
    for key, values in (("segmentations", masks), ("bboxes", boxes), ("areas", areas)):
        if len(values) != video["length"]:
            raise InputError(
                f"{where}: {key} has {len(values)} entries but video {video_id} has "
                f"{video['length']} frames"
            )
    crowd = int(row.get("iscrowd", 0) or 0)
    size = (video["height"], video["width"])
    for t, (mask, frame_box, area) in enumerate(zip(masks, boxes, areas)):
        if not mask or not frame_box:
            continue
        mask = segmentation(mask, size, f"{where}, frame {t}")
        if mask is None:
            continue
        item = {
            "id": row["id"],
            "category_id": id_map[category],
            "bbox": box(frame_box, f"{where}, frame {t}"),
            "bbox_mode": BoxMode.XYWH_ABS,
            "segmentation": mask,
            "iscrowd": crowd,
        }
        if area:
            item["area"] = area
        video["annotations"][t].append(item)
    if not crowd:
        video["objects"].append({"id": row["id"], "category_id": id_map[category]})


def _check_images(videos: Any, root: Path, file: Path) -> None:
    """Look at the first frame of every video; ``prepare.py check`` looks at all of them."""
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
