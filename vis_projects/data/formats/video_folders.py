"""Videos as a folder of images beside a folder of label images: DAVIS, YouTube-VOS, MOSE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from ...structures import InputError
from .label_maps import LabelFiles
from .video_record import Video


def read_sequence_list(file: Path) -> list[str]:
    """Read a file with one sequence name per line.

    Raises:
        InputError: missing, empty, or a name twice.
    """
    if not file.is_file():
        raise InputError(
            f"{file}: no such list of sequences; set DETECTRON2_DATASETS to the folder that holds "
            "the data set (layout: datasets/README.md)"
        )
    names = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    if not names:
        raise InputError(f"{file}: this list of sequences is empty; restore it from the data set")
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise InputError(f"{file}: sequence {twice[0]} is listed twice; remove one line")
    return names


def image_size(file: str | Path) -> tuple[int, int]:
    """Return (rows, columns) of an image file without decoding it.

    Raises:
        InputError: missing or damaged.
    """
    try:
        with Image.open(file) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError):
        raise InputError(f"{file}: missing or no readable image; copy it again") from None


def mask_files(files: Sequence[Path], masks: Path) -> list[Path | None]:
    """Return the label image of every frame, None where there is none.

    Raises:
        InputError: a label image has no frame.
    """
    have = {f.stem for f in masks.glob("*.png")} if masks.is_dir() else set()
    surplus = sorted(have - {f.stem for f in files})
    if surplus:
        raise InputError(
            f"{masks / surplus[0]}.png: a mask without frame in {files[0].parent}; the two folders "
            "do not belong together"
        )
    return [masks / f"{f.stem}.png" if f.stem in have else None for f in files]


def folder_video(
    files: Sequence[Path],
    label_files: Sequence[Path | None],
    categories: Mapping[int, int],
    *,
    starts: Mapping[int, Sequence[int]],
    binary: bool = False,
) -> Video:
    """Return the record of a video.

    Args:
        files: its frames in order, all in the folder that names it.
        label_files: of every frame, None for none.
        categories: class of every object id.
        starts: object ids by the frame in which they start.
        binary: masks are 0/255, as those of DAVIS 2016.
    """
    height, width = image_size(files[0])
    name = files[0].parent.name
    annotated = any(f is not None for f in label_files)
    return {
        "video_id": name,
        "name": name,
        "file_names": [str(f) for f in files],
        "height": height,
        "width": width,
        "length": len(files),
        "objects": [{"id": i, "category_id": c} for i, c in sorted(categories.items())],
        "annotations": LabelFiles(
            label_files, dict(categories), size=(height, width), binary=binary
        )
        if annotated
        else None,
        "starts": {t: list(ids) for t, ids in starts.items() if ids},
    }
