"""Results in other formats, read as a ``VideoResult``: what ``VideoResult``'s own writers leave."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError
from .image_files import MASK_SUFFIXES, list_folder
from .mask_images import VOID, read_ids
from .masks import RLE, encode_masks
from .video_result import Track, VideoResult


def read_result(path: str | Path) -> VideoResult:
    """Read a result by what it is.

    Takes a file of ``VideoResult.save``, a folder of ``vis run``, a folder of indexed images
    (DAVIS), label maps (T, H, W) as ``.npy``, the YouTube-VIS list of one video, and the COCO json
    of ``VideoResult.to_coco``. Formats without names or scores give names by id and the score 1.

    Raises:
        InputError: none of these, or one without masks (MOT).
    """
    path = Path(path).expanduser()
    if path.is_dir():
        if (path / "results.json").is_file():
            return VideoResult.load(path)
        files = [f for f in list_folder(path) if f.suffix.lower() in MASK_SUFFIXES]
        if not files:
            raise InputError(f"{path}: holds neither results.json nor indexed images of a result")
        names = [f.stem for f in files]
        return _of_labels((read_ids(f) for f in files), names, path.name)
    if path.suffix.lower() == ".npy":
        return _of_array(path)
    if path.suffix.lower() not in (".json", ".gz"):
        raise InputError(
            f"{path}: no result with masks; give a json, a .npy of label maps, or a folder"
        )
    content = _json(path)
    if isinstance(content, list) and not (path.parent / "video.json").is_file():
        return _of_ytvis(content, path)
    if isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys():
        return _of_coco(content, path)
    return VideoResult.load(path)


def _json(path: Path) -> Any:
    if path.suffix == ".gz":
        return None  # a saved result
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{path}: no readable json ({error})") from None


def _of_array(path: Path) -> VideoResult:
    try:
        maps = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: no readable array ({' '.join(str(error).split())})") from None
    if maps.ndim != 3 or maps.dtype.kind not in "uib":
        raise InputError(f"{path}: {maps.dtype} {maps.shape}; label maps are integers (T, H, W)")
    return _of_labels(maps, None, path.stem)


def _of_labels(maps: Iterable[np.ndarray], names: Sequence[str] | None, name: str) -> VideoResult:
    masks: dict[int, dict[int, RLE]] = {}
    size, length = (0, 0), 0
    for t, labels in enumerate(maps):
        if t and labels.shape != size:
            raise InputError(f"{name}: frame {t} is of another size than the first")
        size, length = labels.shape, t + 1
        ids = [int(i) for i in np.unique(labels) if i > 0 and i != VOID]
        for i, rle in zip(ids, encode_masks(labels[None] == np.array(ids)[:, None, None])):
            masks.setdefault(i, {})[t] = rle
    tracks = [
        Track(i, {0: 1.0}, [found.get(t) for t in range(length)])
        for i, found in sorted(masks.items())
    ]
    return VideoResult(tracks, tuple(size), length, frame_names=names, name=name)


def _of_ytvis(entries: list[Any], path: Path) -> VideoResult:
    keys = {"video_id", "category_id", "score", "segmentations"}
    if not entries or not all(isinstance(e, dict) and keys <= e.keys() for e in entries):
        raise InputError(f"{path}: no YouTube-VIS list with an entry for each track")
    videos = {e["video_id"] for e in entries}
    if len(videos) > 1:
        raise InputError(f"{path}: holds {len(videos)} videos; a result is of one")
    sizes = {tuple(m["size"]) for e in entries for m in e["segmentations"] if m}
    lengths = {len(e["segmentations"]) for e in entries}
    if len(sizes) != 1 or len(lengths) != 1:
        raise InputError(f"{path}: tracks of different sizes or lengths, or without a mask")
    ids = sorted({e["category_id"] for e in entries})
    tracks = [
        Track(k, {ids.index(e["category_id"]): float(e["score"])}, e["segmentations"])
        for k, e in enumerate(entries, 1)
    ]
    return VideoResult(tracks, sizes.pop(), lengths.pop(), category_ids=ids, name=path.stem)


def _of_coco(content: dict[str, Any], path: Path) -> VideoResult:
    images = sorted(content["images"], key=lambda row: row.get("frame_id", row["id"]))
    if not images or not all("track_id" in a for a in content["annotations"]):
        raise InputError(f"{path}: a COCO json without frames or track_id: no tracks of a video")
    frame = {row["id"]: t for t, row in enumerate(images)}
    categories = sorted(content["categories"], key=lambda row: row["id"])
    number = {row["id"]: k for k, row in enumerate(categories)}
    tracks: dict[int, Track] = {}
    for row in content["annotations"]:
        if not isinstance(row.get("segmentation"), dict):
            raise InputError(f"{path}: annotation {row.get('id')} has no RLE")
        scores = {number[row["category_id"]]: float(row.get("score", 1.0))}
        empty: list[RLE | None] = [None] * len(images)
        track = tracks.setdefault(row["track_id"], Track(row["track_id"], scores, empty))
        track.masks[frame[row["image_id"]]] = row["segmentation"]
    return VideoResult(
        list(tracks.values()),
        (images[0]["height"], images[0]["width"]),
        len(images),
        class_names=[row["name"] for row in categories],
        category_ids=[row["id"] for row in categories],
        frame_names=[Path(row["file_name"]).stem for row in images],
        name=path.stem,
    )
