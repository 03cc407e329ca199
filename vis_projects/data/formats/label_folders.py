"""A user's own videos, and MOSE: folders of frames beside folders of label images.

<root>/JPEGImages/<video>/<frame>.jpg
<root>/Annotations/<video>/<frame>.png    for all frames, some, or the first alone

Frames and masks pair by name. An object starts in the first frame whose mask shows it. Masks of a
video that hold nothing but 0 and 255 show one object, id 1; 255 beside ids is void.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...structures import InputError, is_soft, list_folder, list_images, object_ids
from ...structures.image_files import MASK_SUFFIXES
from .label_maps import VOID, read_label_map
from .video_folders import folder_video, mask_files
from .video_record import Video

_THREADS = 8
_SILENT = 2000  # masks that are read without a bar


def load_label_folders(
    root: str | Path, *, first_masks_only: bool = False
) -> tuple[list[Video], dict[str, Any]]:
    """Return the videos of ``JPEGImages/<video>`` with the masks of ``Annotations/<video>``.

    The metadata names the ground truth (``gt_root``) if some video has more masks than its first.

    Args:
        first_masks_only: trust that every object is in the first mask (MOSE) and read no other.

    Raises:
        InputError: no such folder, no video in it, masks that do not fit the frames or are no ids.
    """
    root = Path(root).expanduser()
    images, masks = root / "JPEGImages", root / "Annotations"
    if not images.is_dir():
        raise InputError(
            f"{images}: no such folder; videos are folders of images below JPEGImages, their masks "
            "below Annotations"
        )
    folders = [f for f in list_folder(images) if f.is_dir()]
    if not folders:
        raise InputError(f"{images}: no video in this folder; a video is a sub-folder of images")
    _check_names(folders, masks)
    pairs = []
    for folder in folders:
        files = list_images(folder)
        pairs.append((files, mask_files(files, masks / folder.name)))
    count = sum(f is not None for _, labels in pairs for f in labels)
    progress = tqdm(total=count, desc=f"{masks}", unit="mask", disable=count < _SILENT)
    with progress, ThreadPoolExecutor(_THREADS) as pool:
        videos = [
            _video(files, labels, pool, progress, first_masks_only) for files, labels in pairs
        ]
    metadata: dict[str, Any] = {"thing_classes": ["object"], "image_root": str(images)}
    if any(sum(f is not None for f in labels) > 1 for _, labels in pairs):
        metadata["gt_root"] = str(masks)
    return videos, metadata


def _check_names(folders: Sequence[Path], masks: Path) -> None:
    """A folder of masks without video is most often a misspelt one."""
    if not masks.is_dir():
        return
    names = {f.name for f in folders}
    alone = next((f for f in list_folder(masks) if f.is_dir() and f.name not in names), None)
    if alone is not None:
        raise InputError(f"{alone}: masks of a video that is not in {folders[0].parent}")
    loose = next(
        (f for f in list_folder(masks) if f.is_file() and f.suffix.lower() in MASK_SUFFIXES), None
    )
    if loose is not None and not any(f.name in names for f in list_folder(masks)):
        raise InputError(
            f"{loose}: masks lie in a folder named after their video, such as "
            f"{masks / folders[0].name}"
        )


def _video(
    files: Sequence[Path],
    label_files: Sequence[Path | None],
    pool: ThreadPoolExecutor,
    progress: tqdm,
    first_masks_only: bool,
) -> Video:
    annotated = [t for t, f in enumerate(label_files) if f is not None]
    if first_masks_only:
        annotated = annotated[:1]
    starts: dict[int, list[int]] = {}
    seen: set[int] = set()
    read = pool.map(_ids_of_mask, [label_files[t] for t in annotated])
    for t, ids in zip(annotated, read, strict=True):
        starts[t] = sorted(ids - seen - {VOID})
        seen |= ids
        progress.update()
    if seen == {VOID}:
        first = next(t for t in annotated if VOID in _ids_of_mask(label_files[t]))
        return folder_video(files, label_files, {1: 0}, starts={first: [1]}, binary=True)
    ids = sorted(seen - {VOID})
    return folder_video(files, label_files, dict.fromkeys(ids, 0), starts=starts)


def _ids_of_mask(file: Path) -> set[int]:
    """Return the values above 0 of a mask, after a look at whether they are ids."""
    labels = read_label_map(file)
    present = np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[1:]) + 1
    if len(present) > 2 and is_soft(labels):
        object_ids(labels, name=str(file))  # says what is wrong
    return set(present.tolist())
