"""Videos as a folder of images beside a folder of label images: DAVIS, YouTube-VOS, MOSE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ...structures import MASK_SUFFIXES, InputError, as_posix, image_size, list_folder, read_lines
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
    names = [as_posix(line).rstrip("/") for line in read_lines(file)]
    if not names:
        raise InputError(f"{file}: this list of sequences is empty; restore it from the data set")
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise InputError(f"{file}: sequence {twice[0]} is listed twice; remove one line")
    return names


def mask_files(files: Sequence[Path], masks: Path) -> list[Path | None]:
    """Return the label image of every frame, None where there is none.

    Masks go by their stems; PNG in any spelling of the suffix, or tif, bmp, gif.

    Raises:
        InputError: a label image has no frame, a frame two, or the folder holds other images only.
    """
    found = [f for f in list_folder(masks) if f.is_file()] if masks.is_dir() else []
    label_images = [f for f in found if f.suffix.lower() in MASK_SUFFIXES]
    if found and not label_images:
        raise InputError(
            f"{masks}: holds {found[0].name}, but no mask; masks are PNGs of object ids named "
            f"after their frames, such as {files[0].stem}.png"
        )
    by_stem: dict[str, Path] = {}
    for file in label_images:
        if file.stem in by_stem:
            raise InputError(
                f"{masks}: {by_stem[file.stem].name} and {file.name} could both be the mask of one "
                "frame; keep one of them there"
            )
        by_stem[file.stem] = file
    stems = {f.stem for f in files}
    surplus = next((f for f in label_images if f.stem not in stems), None)
    if surplus is not None:
        raise InputError(
            f"{surplus}: a mask without frame in {files[0].parent}; the two folders do not belong "
            "together"
        )
    return [by_stem.get(f.stem) for f in files]


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
