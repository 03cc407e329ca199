"""Data sets in COCO's json format: reading, registering, and writing others in it."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import logging
import os
from collections.abc import Sequence

import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import BoxMode, PolygonMasks
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import file_lock

from ..catalog import DatasetCatalog, MetadataCatalog

__all__ = [
    "convert_to_coco_dict",
    "convert_to_coco_json",
    "load_coco_json",
    "register_coco_instances",
]

logger = logging.getLogger(__name__)


def load_coco_json(
    json_file: str,
    image_root: str,
    dataset_name: str | None = None,
    extra_annotation_keys: Sequence[str] | None = None,
) -> list[dict]:
    """Read a COCO instances file into Detectron2's dicts, in the order of image ids.

    With ``dataset_name`` the classes and the id map go into its metadata, and categories become
    0-based contiguous in the order of ids. Polygons of odd length or below 3 points are dropped,
    and annotations that keep none.

    Raises:
        FileNotFoundError: no such file. ValueError: annotations with equal ids, of unknown
            categories or of other images.
    """
    from pycocotools.coco import COCO

    path = PathManager.get_local_path(json_file)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"COCO annotations {json_file} do not exist: check $DETECTRON2_DATASETS"
        )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(path)
    id_map = _category_map(coco, dataset_name) if dataset_name is not None else None
    ids = [a["id"] for annotations in coco.imgToAnns.values() for a in annotations]
    if len(ids) != len(set(ids)):
        raise ValueError(f"{json_file}: annotation ids are not unique")
    keys = ["iscrowd", "bbox", "category_id", *(extra_annotation_keys or [])]
    dropped = 0
    dicts = []
    for image_id in sorted(coco.imgs):
        image = coco.imgs[image_id]
        objects = []
        for annotation in coco.imgToAnns.get(image_id, []):
            if annotation.get("ignore", 0):
                raise ValueError(f"{json_file}: 'ignore' of annotation {annotation['id']} is set")
            obj = {key: annotation[key] for key in keys if key in annotation}
            if "bbox" in obj and len(obj["bbox"]) == 0:
                raise ValueError(f"{json_file}: annotation {annotation['id']} has an empty bbox")
            segmentation = _valid_segmentation(annotation.get("segmentation"))
            if segmentation is None and annotation.get("segmentation"):
                dropped += 1
                continue
            if segmentation is not None:
                obj["segmentation"] = segmentation
            obj["bbox_mode"] = BoxMode.XYWH_ABS
            if id_map is not None:
                if obj["category_id"] not in id_map:
                    raise ValueError(
                        f"{json_file}: annotation {annotation['id']} has category "
                        f"{obj['category_id']}, which 'categories' lacks"
                    )
                obj["category_id"] = id_map[obj["category_id"]]
            objects.append(obj)
        dicts.append(
            {
                "file_name": os.path.join(image_root, image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "image_id": image_id,
                "annotations": objects,
            }
        )
    if dropped:
        logger.warning("%s: dropped %d annotations without a valid polygon", json_file, dropped)
    logger.info("Loaded %d images in COCO format from %s", len(dicts), json_file)
    return dicts


def _category_map(coco, dataset_name: str) -> dict[int, int]:
    """Contiguous ids by the file's category ids; also stored in the metadata."""
    categories = coco.loadCats(sorted(coco.getCatIds()))
    id_map = {c["id"]: i for i, c in enumerate(categories)}
    metadata = MetadataCatalog.get(dataset_name)
    metadata.thing_classes = [c["name"] for c in categories]
    metadata.thing_dataset_id_to_contiguous_id = id_map
    return id_map


def _valid_segmentation(segmentation):
    """A compressed RLE or the valid polygons; None if nothing is left."""
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            return mask_util.frPyObjects(segmentation, *segmentation["size"])
        return segmentation
    polygons = [p for p in segmentation if len(p) % 2 == 0 and len(p) >= 6]
    return polygons or None


def register_coco_instances(name: str, metadata: dict, json_file: str, image_root: str) -> None:
    """Register a COCO instances file as data set ``name``; it is read when first used."""
    assert isinstance(name, str), name
    assert isinstance(json_file, (str, os.PathLike)), json_file
    assert isinstance(image_root, (str, os.PathLike)), image_root
    DatasetCatalog.register(name, lambda: load_coco_json(json_file, image_root, name))
    MetadataCatalog.get(name).set(
        json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata
    )


def convert_to_coco_dict(dataset_name: str) -> dict:
    """The registered data set as the content of a COCO json file."""
    metadata = MetadataCatalog.get(dataset_name)
    id_map = metadata.get("thing_dataset_id_to_contiguous_id")
    original = {v: k for k, v in id_map.items()} if id_map is not None else None

    def dataset_id(category: int) -> int:
        return category if original is None else original[category]

    images, annotations = [], []
    for index, record in enumerate(DatasetCatalog.get(dataset_name)):
        image_id = record.get("image_id", index)
        images.append(
            {
                "id": image_id,
                "width": int(record["width"]),
                "height": int(record["height"]),
                "file_name": str(record["file_name"]),
            }
        )
        for obj in record.get("annotations", []):
            annotation = _annotation_to_coco(obj, size=(record["height"], record["width"]))
            annotation["id"] = len(annotations) + 1
            annotation["image_id"] = image_id
            annotation["category_id"] = int(dataset_id(obj["category_id"]))
            annotations.append(annotation)
    return {
        "info": {
            "date_created": str(datetime.datetime.now()),
            "description": f"Data set {dataset_name} in COCO format",
        },
        "licenses": None,
        "images": images,
        "categories": [
            {"id": dataset_id(i), "name": name} for i, name in enumerate(metadata.thing_classes)
        ],
        "annotations": annotations,
    }


def _annotation_to_coco(obj: dict, *, size: tuple[int, int]) -> dict:
    """One annotation: box, area (of the mask where there is one), crowd flag, segmentation."""
    box = np.asarray(obj["bbox"], dtype=np.float64).reshape(4).tolist()
    box = BoxMode.convert(box, obj["bbox_mode"], BoxMode.XYWH_ABS)
    out = {"bbox": [round(float(x), 3) for x in box], "iscrowd": int(obj.get("iscrowd", 0))}
    out["area"] = float(box[2] * box[3])
    segmentation = obj.get("segmentation")
    if isinstance(segmentation, list):
        polygons = [np.asarray(p, dtype=np.float64).ravel().tolist() for p in segmentation]
        out["area"] = float(PolygonMasks([polygons]).area()[0])
        out["segmentation"] = polygons
    elif isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            segmentation = mask_util.frPyObjects(segmentation, *size)
        out["area"] = float(mask_util.area(segmentation))
        counts = segmentation["counts"]
        counts = counts.decode("ascii") if isinstance(counts, bytes) else counts
        out["segmentation"] = {"size": [int(x) for x in segmentation["size"]], "counts": counts}
    elif segmentation is not None:
        raise TypeError(f"segmentation must be polygons or an RLE, not {type(segmentation)}")
    return out


def convert_to_coco_json(dataset_name: str, output_file: str, allow_cached: bool = True) -> None:
    """Write the registered data set as a COCO json file; an existing one may be kept.

    Processes wait for each other; the file appears whole or not at all.
    """
    PathManager.mkdirs(os.path.dirname(output_file))
    with file_lock(output_file):
        if PathManager.exists(output_file) and allow_cached:
            logger.warning(
                "Using the COCO file %s, which exists: delete it if out of date", output_file
            )
            return
        content = convert_to_coco_dict(dataset_name)
        partial = output_file + ".tmp"
        with PathManager.open(partial, "w") as file:
            json.dump(content, file)
        os.replace(partial, output_file)
