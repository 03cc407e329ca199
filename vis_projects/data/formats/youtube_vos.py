"""YouTube-VOS 2018 and 2019: label images, objects that may start at any frame.

<root>/<split>/JPEGImages/<video>/<frame>.jpg               6 fps
<root>/<split>_all_frames/JPEGImages/<video>/<frame>.jpg    30 fps
<root>/<split>/Annotations/<video>/<frame>.png              object ids
<root>/<split>/meta.json                                    YouTube-VOS only
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...structures import InputError, list_images
from .json_files import field, read_json
from .label_maps import VOID
from .video_folders import folder_video, mask_files, read_sequence_list
from .video_record import Video


def load_youtube_vos(
    root: str | Path,
    split: str,
    *,
    all_frames: bool = False,
    sequences: str | Path | None = None,
) -> tuple[list[Video], dict[str, Any]]:
    """Return the videos of a split and metadata.

    An object starts at the first frame that ``meta.json`` lists for it. ``scored_frames`` are the
    union of all listed frames. Classes are counted in the training split only.

    Args:
        split: folder name: "train", "valid" or "test".
        all_frames: take the images of ``<split>_all_frames``.
        sequences: a file with the names of the videos to use; all by default.

    Raises:
        InputError: files are missing or broken, or disagree.
    """
    base = Path(root) / split
    file = base / "meta.json"
    if not file.is_file():
        raise InputError(
            f"{file}: no such file; set DETECTRON2_DATASETS to the folder that holds the data sets "
            "(layouts: datasets/README.md)"
        )
    entries = field(read_json(file), "videos", dict, str(file))
    if sequences is not None and not Path(sequences).is_file():
        name = Path(root).name
        raise InputError(
            f"{sequences}: no such list; python datasets/prepare.py split {name} writes it (with "
            "--list FILE for the list of somebody else)"
        )
    names = sorted(entries) if sequences is None else read_sequence_list(Path(sequences))
    unknown = [n for n in names if n not in entries]
    if unknown:
        raise InputError(f"{sequences}: sequence {unknown[0]} is not in {file}")
    if not names:
        raise InputError(f"{file}: it lists no video")
    classes = _classes(entries) if split == "train" else ["object"]
    images = Path(root) / (f"{split}_all_frames" if all_frames else split) / "JPEGImages"
    videos = [_video(n, entries[n], images, base, classes, file) for n in names]
    metadata = {"thing_classes": classes, "meta_file": str(file), "image_root": str(images)}
    if split == "train":
        metadata["gt_root"] = str(base / "Annotations")
    return videos, metadata


def _classes(entries: dict[str, Any]) -> list[str]:
    found = {
        str(o.get("category", "object"))
        for video in entries.values()
        for o in video.get("objects", {}).values()
    }
    return sorted(found) or ["object"]


def _video(
    name: str, entry: dict[str, Any], images: Path, base: Path, classes: Sequence[str], file: Path
) -> Video:
    files = list_images(images / name)
    index = {f.stem: t for t, f in enumerate(files)}
    masks = base / "Annotations" / name
    label_files = mask_files(files, masks)
    starts: dict[int, list[int]] = {}
    scored: set[int] = set()
    categories: dict[int, int] = {}
    for key, item in field(entry, "objects", dict, f"{file}: video {name}").items():
        where = f"{file}: video {name}, object {key}"
        if not key.isdigit() or not 0 < int(key) < VOID:
            raise InputError(f"{where}: object ids must be numbers from 1 to 254")
        listed = field(item, "frames", list, where)
        if not listed:
            raise InputError(f"{where}: its list of frames is empty")
        for frame in listed:
            if frame not in index:
                raise InputError(f"{where}: frame {frame} has no image in {images / name}")
        if label_files[index[listed[0]]] is None:
            raise InputError(
                f"{masks / listed[0]}.png: the mask in which object {key} starts is missing"
            )
        starts.setdefault(index[listed[0]], []).append(int(key))
        scored.update(index[f] for f in listed)
        category = str(item.get("category", "object"))
        categories[int(key)] = classes.index(category) if category in classes else 0
    video = folder_video(files, label_files, categories, starts=starts)
    return {**video, "scored_frames": sorted(scored)}
