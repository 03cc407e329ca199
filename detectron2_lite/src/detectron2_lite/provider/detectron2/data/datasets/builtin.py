"""Registers COCO below ``$DETECTRON2_DATASETS`` (default ``datasets``); files are read on use."""

from __future__ import annotations

import os

from .builtin_meta import _get_builtin_metadata
from .coco import register_coco_instances

# name: (folder of the images, annotations), below the root of the data sets
_COCO = {
    "coco_2014_train": ("coco/train2014", "instances_train2014"),
    "coco_2014_val": ("coco/val2014", "instances_val2014"),
    "coco_2014_minival": ("coco/val2014", "instances_minival2014"),
    "coco_2014_valminusminival": ("coco/val2014", "instances_valminusminival2014"),
    "coco_2017_train": ("coco/train2017", "instances_train2017"),
    "coco_2017_val": ("coco/val2017", "instances_val2017"),
    "coco_2017_test": ("coco/test2017", "image_info_test2017"),
    "coco_2017_test-dev": ("coco/test2017", "image_info_test-dev2017"),
    "coco_2017_val_100": ("coco/val2017", "instances_val2017_100"),
}


def register_all_coco(root: str) -> None:
    """Register the COCO splits below ``root``."""
    for name, (images, labels) in _COCO.items():
        register_coco_instances(
            name,
            _get_builtin_metadata("coco"),
            os.path.join(root, "coco/annotations", labels + ".json"),
            os.path.join(root, images),
        )


register_all_coco(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
