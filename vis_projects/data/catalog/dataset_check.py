"""Looks at everything a data set consists of: ``prepare.py check``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from ...structures import InputError
from ..clips.clip_mapper import read_objects
from ..formats.label_maps import LabelMapAnnotations
from ..formats.video_record import Video, frame_source
from .registration import get_metadata, load_videos


def check_dataset(name: str, *, quick: bool = False, progress: bool = True) -> dict[str, int]:
    """Read every frame and every mask of a registered data set.

    Args:
        quick: only the annotation files and the first frame of every video.

    Returns:
        how many videos, frames, objects and masks there are.

    Raises:
        InputError: about the first bad entry, or that there is no object at all.
    """
    videos = load_videos(name)
    metadata = get_metadata(name)
    count = {"videos": len(videos), "frames": 0, "objects": metadata.num_identities, "masks": 0}
    rows: Iterable[Video] = tqdm(videos, desc=name, unit="video", disable=not progress)
    for video in rows:
        count["frames"] += video["length"]
        frames = range(1 if quick else video["length"])
        _check_frames(video, frames)
        count["masks"] += _check_masks(video, frames)
    annotated = any(video.get("annotations") is not None for video in videos)
    if annotated and not (count["objects"] and (count["masks"] or quick)):
        raise InputError(
            f"data set {name}: {count['frames']} frames, but no object: its masks are empty or all "
            "of its annotations are crowds; there is nothing to train on or to score"
        )
    return count


def _check_frames(video: Video, frames: Iterable[int]) -> None:
    """Decode frames; the source itself names a damaged file or a wrong size."""
    source = frame_source(video)
    wanted = (video["height"], video["width"])
    for t in frames:
        found = source.read(t).shape[:2]
        if found != wanted:
            raise InputError(
                f"{video['file_names'][t]} is {found[0]}x{found[1]} but the annotations say "
                f"{wanted[0]}x{wanted[1]} (rows x columns)"
            )


def _check_masks(video: Video, frames: Iterable[int]) -> int:
    """Decode masks; return how many there are."""
    annotations = video.get("annotations")
    if annotations is None:
        return 0
    count = 0
    known = {o["id"] for o in video.get("objects") or ()}
    for t in frames:
        objects = read_objects(video, t)
        count += len(objects)
        where = f"{video['name']}, frame {t}"
        for i, mask, box in zip(objects.ids, objects.masks, objects.boxes):
            if not mask.any():
                raise InputError(
                    f"{where}: the mask of object {i} is empty; an absent object has null"
                )
            _check_box(box, mask, f"{where}, object {i}")
        if isinstance(annotations, LabelMapAnnotations) and video.get("scored_frames"):
            _check_ids(set(objects.ids.tolist()) - known, where)
    return count


def _check_box(box: Any, mask: Any, where: str) -> None:
    """A box should hold its mask; two pixels of rounding are common in released files."""
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    inside = (
        box[0] <= columns[0] + 2
        and box[1] <= rows[0] + 2
        and box[2] >= columns[-1] - 1
        and box[3] >= rows[-1] - 1
    )
    if not inside:
        raise InputError(
            f"{where}: the box {[round(float(v), 1) for v in box]} (x0, y0, x1, y1) does not hold "
            "the "
            f"mask, which spans {[int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])]}"
        )


def _check_ids(unknown: set[int], where: str) -> None:
    if unknown:
        raise InputError(f"{where}: the mask shows id {min(unknown)}, unknown to meta.json")
