"""The meta file of YouTube-VOS: which objects a video has and in which frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import GroundTruthError
from .json_files import load_json


class VosObject(NamedTuple):
    """An object: id in the PNGs, class (None where hidden), names of its frames in order."""

    object_id: int
    category: str | None
    frames: list[str]


class VosVideo(NamedTuple):
    """A video's objects by id, and the union of their frames in order: those that count."""

    objects: list[VosObject]
    frames: list[str]


def read_meta(
    meta: Path | str | Mapping[str, Any], chosen: Sequence[str] | None = None
) -> dict[str, VosVideo]:
    """Read and check a meta file or its content; returns the videos by name.

    ``chosen`` are the names of the videos that are wanted, of a part that was held out, for
    example; all by default.

    Raises GroundTruthError naming the file, the video and the object.
    """
    if isinstance(meta, Mapping):
        name, content = "meta", meta
    else:
        name, content = str(meta), load_json(Path(meta), error=GroundTruthError)
    videos = content.get("videos") if isinstance(content, Mapping) else None
    if not isinstance(videos, Mapping) or not videos:
        raise GroundTruthError(
            f"{name}: key 'videos' is missing or empty; give the split's meta.json"
        )
    names = sorted(videos) if chosen is None else list(dict.fromkeys(chosen))
    unknown = [video for video in names if video not in videos]
    if unknown or not names:
        what = f"video {unknown[0]} is not in it" if unknown else "no video is chosen"
        raise GroundTruthError(f"{name}: {what}; --videos takes names or a file with one a line")
    return {video: _read_video(videos[video], f"{name}, video {video}") for video in names}


def _read_video(entry: Any, where: str) -> VosVideo:
    objects = entry.get("objects") if isinstance(entry, Mapping) else None
    if not isinstance(objects, Mapping) or not objects:
        raise GroundTruthError(f"{where}: key 'objects' is missing or empty")
    read = []
    for identity, content in objects.items():
        place = f"{where}, object {identity}"
        if not str(identity).isdecimal() or not 1 <= int(identity) <= 255:
            raise GroundTruthError(f"{place}: ids are numbers from 1 to 255")
        frames = content.get("frames") if isinstance(content, Mapping) else None
        if not isinstance(frames, list) or not frames:
            raise GroundTruthError(f"{place}: key 'frames' is missing or empty")
        read.append(VosObject(int(identity), content.get("category"), sorted(map(str, frames))))
    union = sorted({frame for item in read for frame in item.frames})
    return VosVideo(sorted(read), union)
