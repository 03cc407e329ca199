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

from ...structures import InputError, list_images
from .label_maps import VOID, read_label_map
from .video_folders import folder_video, mask_files, read_sequence_list

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
    label_files = mask_files(files, masks)
    if subset in ("train", "val"):
        missing = [f.stem for f, label in zip(files, label_files, strict=True) if label is None]
        if missing:
            raise InputError(
                f"{masks / missing[0]}.png: no mask for this frame ({len(missing)} of {len(files)} "
                "are missing); complete the annotations"
            )
    ids = _object_ids(label_files[0], binary=year == 2016)
    return folder_video(
        files, label_files, dict.fromkeys(ids, 0), starts={0: ids}, binary=year == 2016
    )


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
