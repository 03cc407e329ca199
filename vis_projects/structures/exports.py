"""A video's tracks in the formats of other programs, and as files that are read back.

``results.json`` is the plain YouTube-VIS list, which every scorer reads; what that format cannot
hold (names, frames, ids, the system) lies in ``video.json`` beside it.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

from .errors import InputError
from .masks import RLE, decode_masks, mask_area
from .palette import id_palette

KIND = "vis_projects.VideoResult"
VERSION = 1


class Result(Protocol):
    """What these functions need of a ``VideoResult``."""

    tracks: list[Any]
    size: tuple[int, int]
    length: int
    class_names: Sequence[str] | None
    category_ids: Sequence[int] | None
    frame_names: Sequence[str] | None
    name: str

    def frame_name(self, index: int) -> str: ...
    def category_id(self, category: int) -> int: ...
    def class_name(self, category: int) -> str: ...
    def painted(self, min_score: float = 0.0) -> list[Any]: ...
    def label_maps(
        self, max_ids: int | None = None, *, min_score: float = 0.0
    ) -> Iterator[np.ndarray]: ...


def to_ytvis(result: Result, video_id: int = 1, *, min_score: float = 0.0) -> list[dict[str, Any]]:
    """See ``VideoResult.to_ytvis``; the order is that of the tracks, categories ascending."""
    return [entry for entry, _ in _entries(result, video_id, min_score)]


def _entries(
    result: Result, video_id: Any, min_score: float
) -> Iterator[tuple[dict[str, Any], Any]]:
    """Every entry of the YouTube-VIS list with the track that it belongs to."""
    for track in result.tracks:
        if track.score < min_score or not track.visible_frames:
            continue
        for category, score in sorted(track.category_scores.items()):
            entry = {
                "video_id": video_id,
                "category_id": result.category_id(category),
                "score": float(score),
                "segmentations": track.masks,
            }
            yield entry, track


def _categories(result: Result) -> list[dict[str, Any]]:
    used = {c for track in result.tracks for c in track.category_scores}
    known = range(len(result.class_names or result.category_ids or ()))
    return [
        {"id": result.category_id(c), "name": result.class_name(c)} for c in sorted(used | {*known})
    ]


def _box(rle: RLE) -> list[float]:
    return [float(n) for n in mask_util.toBbox(rle)]


def to_coco(result: Result, *, min_score: float = 0.0) -> dict[str, Any]:
    """See ``VideoResult.to_coco``."""
    height, width = result.size
    images = [
        {
            "id": t + 1,
            "file_name": f"{result.frame_name(t)}.jpg",
            "height": height,
            "width": width,
            "frame_id": t,
        }
        for t in range(result.length)
    ]
    annotations = [
        {
            "id": 0,
            "image_id": t + 1,
            "category_id": result.category_id(track.category),
            "track_id": track.id,
            "segmentation": rle,
            "bbox": _box(rle),
            "area": mask_area(rle),
            "iscrowd": 0,
            "score": float(track.score),
        }
        for track in result.tracks
        if track.score >= min_score
        for t, rle in enumerate(track.masks)
        if rle is not None
    ]
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    return {"images": images, "annotations": annotations, "categories": _categories(result)}


def to_davis(result: Result, folder: Path, *, min_score: float = 0.0) -> list[Path]:
    """See ``VideoResult.to_davis``."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for t, labels in enumerate(result.label_maps(min_score=min_score)):
        files.append(folder / f"{result.frame_name(t)}.png")
        write_id_map(files[-1], labels)
    return files


def write_id_map(file: Path, labels: np.ndarray, *, palette: Sequence[int] | None = None) -> None:
    """Write ids (H, W): a palette PNG for uint8, a 16-bit grey PNG for uint16."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.ascontiguousarray(labels))
    if labels.dtype == np.uint8:
        image.putpalette(list(palette) if palette is not None else id_palette())
    image.save(file, format="PNG")


def to_mot(result: Result, *, min_score: float = 0.0) -> str:
    """See ``VideoResult.to_mot``; lines in order of frame, then id."""
    rows = []
    for track in result.tracks:
        if track.score < min_score:
            continue
        for t, rle in enumerate(track.masks):
            if rle is not None and mask_area(rle):
                left, top, width, height = _box(rle)
                # MOTChallenge counts pixels from 1.
                place = f"{left + 1:g},{top + 1:g},{width:g},{height:g}"
                category = result.category_id(track.category)
                line = f"{t + 1},{track.id},{place},{track.score:.6g},{category},1"
                rows.append((t, track.id, line))
    return "".join(f"{line}\n" for _, _, line in sorted(rows))


def to_supervision(result: Result, *, min_score: float = 0.0) -> list[Any]:
    """See ``VideoResult.to_supervision``.

    Raises:
        InputError: the package is not installed.
    """
    try:
        import supervision
    except ImportError:
        raise InputError("to_supervision needs the package: pip install supervision") from None
    frames = []
    for t in range(result.length):
        seen = [k for k in result.painted(min_score) if k.masks[t] is not None]
        if not seen:
            frames.append(supervision.Detections.empty())
            continue
        boxes = np.array([_box(k.masks[t]) for k in seen], np.float32)
        boxes[:, 2:] += boxes[:, :2]
        frames.append(
            supervision.Detections(
                xyxy=boxes,
                mask=decode_masks([k.masks[t] for k in seen], result.size),
                confidence=np.array([k.score for k in seen], np.float32),
                class_id=np.array([k.category for k in seen]),
                tracker_id=np.array([k.id for k in seen]),
                data={"class_name": np.array([result.class_name(k.category) for k in seen])},
            )
        )
    return frames


# Files that are read back -------------------------------------------------------------------------


def save(result: Result, path: Path) -> Path:
    """See ``VideoResult.save``."""
    tracks = [
        {
            "id": track.id,
            "category_scores": sorted(track.category_scores.items()),
            "masks": track.masks,
        }
        for track in result.tracks
    ]
    content = {
        "kind": KIND,
        "version": VERSION,
        "name": result.name,
        "size": list(result.size),
        "length": result.length,
        "class_names": _listed(result.class_names),
        "category_ids": _listed(result.category_ids),
        "frame_names": _listed(result.frame_names),
        "tracks": tracks,
    }
    text = json.dumps(content).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    return path


def _listed(values: Sequence[Any] | None) -> list[Any] | None:
    return None if values is None else list(values)


def write_pair(
    result: Result,
    folder: Path,
    *,
    video_id: int = 1,
    min_score: float = 0.0,
    more: dict[str, Any] | None = None,
) -> list[Path]:
    """Write ``results.json`` and ``video.json`` into a folder and return their paths.

    ``more``: further facts for ``video.json``, such as the system and the frame rate.
    """
    entries, description = describe(result, video_id, min_score=min_score)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "results.json", folder / "video.json"]
    for file, content in zip(files, (entries, {**description, **(more or {})})):
        file.write_text(json.dumps(content))
    return files


def describe(
    result: Result, video_id: Any, *, min_score: float = 0.0, first: int = 0
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return a video's YouTube-VIS entries and what ``video.json`` says of it.

    ``first``: place of the first entry in a list that joins several videos.
    """
    entries, tracks = [], {}
    for number, (entry, track) in enumerate(_entries(result, video_id, min_score), first):
        entries.append(entry)
        tracks.setdefault(track.id, {"id": track.id, "score": float(track.score), "entries": []})
        tracks[track.id]["entries"].append(number)
    for track in tracks.values():
        best = max((entries[i - first] for i in track["entries"]), key=lambda e: e["score"])
        track["category_id"] = best["category_id"]
    return entries, {
        "video_id": video_id,
        "name": result.name,
        "height": result.size[0],
        "width": result.size[1],
        "length": result.length,
        "frames": [result.frame_name(t) for t in range(result.length)],
        "categories": _categories(result),
        "tracks": list(tracks.values()),
    }


def load(path: Path) -> dict[str, Any]:
    """Read a saved result, or a folder of ``results.json`` and ``video.json``; the arguments of a
    ``VideoResult``, tracks as dicts.

    Raises:
        InputError: no such file, or a file of another kind.
    """
    if path.is_dir():
        return _load_pair(path)
    content = _read_json(path)
    if not isinstance(content, dict) or content.get("kind") != KIND:
        if isinstance(content, list) and (path.parent / "video.json").is_file():
            return _load_pair(path.parent)
        raise InputError(
            f"{path}: no saved VideoResult; give a file of VideoResult.save, or a folder that "
            "holds results.json and video.json"
        )
    tracks = [
        {**track, "category_scores": {int(c): float(s) for c, s in track["category_scores"]}}
        for track in content["tracks"]
    ]
    keys = ("name", "length", "class_names", "category_ids", "frame_names")
    return {"tracks": tracks, "size": tuple(content["size"]), **{k: content[k] for k in keys}}


def _load_pair(folder: Path) -> dict[str, Any]:
    entries = _read_json(folder / "results.json")
    video = _read_json(folder / "video.json")
    ids = [category["id"] for category in video["categories"]]
    tracks = [
        {
            "id": track["id"],
            "category_scores": {
                ids.index(entries[i]["category_id"]): entries[i]["score"] for i in track["entries"]
            },
            "masks": entries[track["entries"][0]]["segmentations"],
        }
        for track in video["tracks"]
    ]
    return {
        "tracks": tracks,
        "size": (video["height"], video["width"]),
        "length": video["length"],
        "class_names": [category["name"] for category in video["categories"]],
        "category_ids": ids,
        "frame_names": video["frames"],
        "name": video["name"],
    }


def _read_json(file: Path) -> Any:
    try:
        data = file.read_bytes()
        return json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, EOFError) as error:
        raise InputError(f"{file}: no readable json ({error})") from None
