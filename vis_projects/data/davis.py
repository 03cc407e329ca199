"""DAVIS 2016, 2017 (semi-supervised) and 2019 (unsupervised) in the official folder tree.

DAVIS/JPEGImages/480p/<sequence>/00000.jpg
DAVIS/Annotations/480p/<sequence>/00000.png                2016: 0/255; 2017: object ids, 255 void
DAVIS/Annotations_unsupervised/480p/<sequence>/00000.png   2019, encoded as 2017
DAVIS/ImageSets/{2016,2017,2019}/<subset>.txt              names of sequences
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..structures import InputError, list_images
from .label_maps import VOID, LabelFiles, read_label_map

# (year of the task, subset) -> ImageSets file; 2019's lists of train and val are those of 2017.
SUBSETS = {
    (2016, "train"): "2016/train.txt",
    (2016, "val"): "2016/val.txt",
    (2017, "train"): "2017/train.txt",
    (2017, "val"): "2017/val.txt",
    (2017, "test_dev"): "2017/test-dev.txt",
    (2017, "test_challenge"): "2017/test-challenge.txt",
    (2019, "train"): "2017/train.txt",
    (2019, "val"): "2017/val.txt",
    (2019, "test_dev"): "2019/test-dev.txt",
    (2019, "test_challenge"): "2019/test-challenge.txt",
}


def annotation_folder(year: int) -> str:
    """Return the name of the folder that holds the masks of a task."""
    return "Annotations_unsupervised" if year == 2019 else "Annotations"


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


def load_davis(
    root: str | Path, *, year: int, subset: str, resolution: str = "480p"
) -> list[dict[str, Any]]:
    """Return the sequences of a DAVIS task as video dicts.

    Args:
        root: the folder with ``JPEGImages``, ``Annotations`` and ``ImageSets``.
        year: 2016 (one object), 2017 (semi-supervised) or 2019 (unsupervised).
        subset: ``"train"``, ``"val"``, and from 2017 on ``"test_dev"``, ``"test_challenge"``.

    Raises:
        InputError: a file or sequence is missing, an annotation has no frame or a frame no
            annotation, masks of 2016 where object ids are expected.
    """
    root = Path(root)
    list_file = root / "ImageSets" / SUBSETS[year, subset]
    names = read_sequence_list(list_file)
    images, masks = root / "JPEGImages" / resolution, root / annotation_folder(year) / resolution
    videos = []
    for name in names:
        if not (images / name).is_dir():
            raise InputError(
                f"{images / name}: this sequence is listed in {list_file} but absent; download it "
                "or use a list of the sequences that you have"
            )
        videos.append(_load_sequence(images / name, masks / name, year=year, subset=subset))
    return videos


def _load_sequence(frames: Path, masks: Path, *, year: int, subset: str) -> dict[str, Any]:
    files = list_images(frames)
    height, width = image_size(files[0])
    have = {f.stem for f in masks.glob("*.png")} if masks.is_dir() else set()
    if subset in ("train", "val"):
        missing = [f.stem for f in files if f.stem not in have]
        if missing:
            raise InputError(
                f"{masks / missing[0]}.png: no mask for this frame ({len(missing)} of {len(files)} "
                "are missing); complete the annotations"
            )
    surplus = sorted(have - {f.stem for f in files})
    if surplus:
        raise InputError(
            f"{masks / surplus[0]}.png: a mask without frame; {frames} and {masks} do not belong "
            "together"
        )
    label_files = [masks / f"{f.stem}.png" if f.stem in have else None for f in files]
    ids = _object_ids(label_files[0], binary=year == 2016)
    annotations = LabelFiles(
        label_files, dict.fromkeys(ids, 0), size=(height, width), binary=year == 2016
    )
    return {
        "video_id": frames.name,
        "name": frames.name,
        "file_names": [str(f) for f in files],
        "height": height,
        "width": width,
        "length": len(files),
        "objects": [{"id": i, "category_id": 0} for i in ids],
        "annotations": annotations if have else None,
        "starts": {0: ids} if ids else {},
    }


def _object_ids(first: Path | None, *, binary: bool) -> list[int]:
    """Return the ids 1..n of the first frame's mask; DAVIS defines the objects there."""
    if first is None:
        return []
    labels = read_label_map(first, binary=binary)
    present = np.unique(labels)
    if VOID in present and len(np.setdiff1d(present, [0, VOID])) == 0:
        raise InputError(
            f"{first}: this mask holds only 0 and 255, which is DAVIS-2016's encoding (255 is void "
            "here); use davis_2016_* or the 2017 annotations"
        )
    ids = present[(present > 0) & (present < VOID)]
    return list(range(1, int(ids.max()) + 1)) if len(ids) else []
