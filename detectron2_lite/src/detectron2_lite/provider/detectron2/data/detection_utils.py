"""Reading images and turning annotations into Instances."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.config import CfgNode as _CfgNode
from detectron2.structures import (
    BitMasks,
    Boxes,
    BoxMode,
    Instances,
    PolygonMasks,
    polygons_to_bitmask,
)
from detectron2.utils.file_io import PathManager
from PIL import Image, ImageOps

from . import transforms as T
from .catalog import MetadataCatalog

__all__ = [
    "SizeMismatchError",
    "annotations_to_instances",
    "build_augmentation",
    "build_transform_gen",
    "check_image_size",
    "check_metadata_consistency",
    "convert_PIL_to_numpy",
    "convert_image_to_rgb",
    "filter_empty_instances",
    "gen_crop_transform_with_instance",
    "read_image",
    "transform_instance_annotations",
]

# ITU-R BT.601, analogue form
_RGB_TO_YUV = np.array(
    [[0.299, 0.587, 0.114], [-0.14713, -0.28886, 0.436], [0.615, -0.51499, -0.10001]]
)
_YUV_TO_RGB = np.array([[1.0, 0.0, 1.13983], [1.0, -0.39465, -0.58060], [1.0, 2.03211, 0.0]])


class SizeMismatchError(ValueError):
    """An image does not have the size that its annotations were made for."""


def convert_PIL_to_numpy(image: Image.Image, format: str | None) -> np.ndarray:
    """Return a PIL image as (H, W, C) uint8 (float for "YUV-BT.601") in the given format.

    "L" keeps a channel of one; None keeps the image's own mode.
    """
    if format is not None:
        image = image.convert("RGB" if format in ("BGR", "YUV-BT.601") else format)
    array = np.asarray(image)
    if format == "L":
        return np.expand_dims(array, -1)
    if format == "BGR":
        return array[:, :, ::-1]
    if format == "YUV-BT.601":
        return np.dot(array / 255.0, _RGB_TO_YUV.T)
    return array


def convert_image_to_rgb(image: np.ndarray | torch.Tensor, format: str | None) -> np.ndarray:
    """Return an (H, W, C) image of the given format as (H, W, 3) uint8 RGB."""
    if isinstance(image, torch.Tensor):
        image = image.cpu().numpy()
    if format == "BGR":
        return image[:, :, [2, 1, 0]]
    if format == "YUV-BT.601":
        return (np.dot(image, _YUV_TO_RGB.T) * 255.0).clip(0, 255).astype(np.uint8)
    if format == "L":
        image = image[:, :, 0]
    return np.asarray(Image.fromarray(image.astype(np.uint8), mode=None).convert("RGB"))


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """Read an image, turned as its EXIF tag says, as (H, W, C) in the given format."""
    with PathManager.open(file_name, "rb") as file:
        image = Image.open(file)
        try:
            image = ImageOps.exif_transpose(image)
        except Exception:  # a broken tag must not cost the picture
            logging.getLogger(__name__).debug("EXIF data of %s cannot be read", file_name)
        return convert_PIL_to_numpy(image, format)


def check_image_size(dataset_dict: dict[str, Any], image: np.ndarray) -> None:
    """Compare the image's size with the dict's, or fill it in.

    Raises SizeMismatchError with the file name and both sizes.
    """
    height, width = image.shape[:2]
    expected = (dataset_dict.setdefault("width", width), dataset_dict.setdefault("height", height))
    if expected != (width, height):
        name = f" for image {dataset_dict['file_name']}" if "file_name" in dataset_dict else ""
        raise SizeMismatchError(
            f"Mismatched image shape{name}, got {(width, height)}, expect {expected}. "
            "Please check the width/height in your annotation."
        )


def transform_instance_annotations(
    annotation: dict[str, Any],
    transforms: T.Transform | Sequence[T.Transform],
    image_size: tuple[int, int],
) -> dict[str, Any]:
    """Transform box and segmentation of one annotation in place and return it.

    The box becomes XYXY, clipped to ``image_size`` (h, w) after the transform; an RLE becomes a
    mask.
    """
    if isinstance(transforms, (tuple, list)):
        transforms = T.TransformList(transforms)
    height, width = image_size
    box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    box = transforms.apply_box(np.array([box]))[0].clip(min=0)
    annotation["bbox"] = np.minimum(box, (width, height, width, height))
    annotation["bbox_mode"] = BoxMode.XYXY_ABS
    if "segmentation" in annotation:
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, list):
            polygons = [np.asarray(polygon).reshape(-1, 2) for polygon in segmentation]
            annotation["segmentation"] = [
                polygon.reshape(-1) for polygon in transforms.apply_polygons(polygons)
            ]
        elif isinstance(segmentation, dict):
            mask = transforms.apply_segmentation(mask_util.decode(segmentation))
            assert tuple(mask.shape[:2]) == tuple(image_size), (
                f"a mask of {mask.shape[:2]} does not fit an image of {image_size}"
            )
            annotation["segmentation"] = mask
        else:
            raise ValueError(
                f"a segmentation must be a list of polygons or an RLE dict, "
                f"got {type(segmentation)}"
            )
    return annotation


def annotations_to_instances(
    annos: Sequence[dict[str, Any]], image_size: tuple[int, int], mask_format: str = "polygon"
) -> Instances:
    """Return Instances with ``gt_boxes``, ``gt_classes`` and, if there are any, ``gt_masks``.

    ``mask_format`` is "polygon" or "bitmask"; ValueError if masks are given as polygons are
    asked for.
    """
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annos]
    target = Instances(image_size)
    target.gt_boxes = Boxes(np.stack(boxes) if boxes else np.zeros((0, 4)))
    target.gt_classes = torch.tensor([int(a["category_id"]) for a in annos], dtype=torch.int64)
    if annos and "segmentation" in annos[0]:
        segmentations = [a["segmentation"] for a in annos]
        if mask_format == "polygon":
            try:
                target.gt_masks = PolygonMasks(segmentations)
            except ValueError as error:
                raise ValueError(
                    "annotations cannot be read as polygons: set INPUT.MASK_FORMAT to 'bitmask' "
                    "if they are masks"
                ) from error
        else:
            assert mask_format == "bitmask", f"unknown mask_format {mask_format!r}"
            masks = [_to_mask(segmentation, image_size) for segmentation in segmentations]
            target.gt_masks = BitMasks(torch.from_numpy(np.stack(masks)))
    return target


def _to_mask(segmentation: Any, image_size: tuple[int, int]) -> np.ndarray:
    """Return polygons, an RLE dict or an array as a bool mask of (h, w)."""
    if isinstance(segmentation, list):
        return polygons_to_bitmask(segmentation, *image_size)
    if isinstance(segmentation, dict):
        return mask_util.decode(segmentation).astype(bool)
    if isinstance(segmentation, np.ndarray):
        assert segmentation.ndim == 2, f"a mask has 2 dimensions, got {segmentation.ndim}"
        return segmentation.astype(bool)
    raise ValueError(
        f"a segmentation must be a list of polygons, an RLE dict or an array, "
        f"got {type(segmentation)}"
    )


def filter_empty_instances(
    instances: Instances,
    by_box: bool = True,
    by_mask: bool = True,
    box_threshold: float = 1e-5,
    return_mask: bool = False,
) -> Instances | tuple[Instances, torch.Tensor]:
    """Drop instances with an empty box or mask; with ``return_mask`` also say which were kept."""
    assert by_box or by_mask, "filter_empty_instances: nothing to filter by"
    keep = torch.ones(len(instances), dtype=torch.bool)
    if by_box:
        keep &= instances.gt_boxes.nonempty(threshold=box_threshold)
    if by_mask and instances.has("gt_masks"):
        keep &= instances.gt_masks.nonempty()
    kept = instances[keep]
    return (kept, keep) if return_mask else kept


def build_augmentation(cfg: _CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Return resizing and, in training, flipping as ``cfg.INPUT`` says."""
    given = cfg.INPUT
    if not is_train:
        return [T.ResizeShortestEdge(given.MIN_SIZE_TEST, given.MAX_SIZE_TEST, "choice")]
    augmentations: list[T.Augmentation] = [
        T.ResizeShortestEdge(
            given.MIN_SIZE_TRAIN, given.MAX_SIZE_TRAIN, given.MIN_SIZE_TRAIN_SAMPLING
        )
    ]
    if given.RANDOM_FLIP != "none":
        augmentations.append(
            T.RandomFlip(
                horizontal=given.RANDOM_FLIP == "horizontal",
                vertical=given.RANDOM_FLIP == "vertical",
            )
        )
    return augmentations


build_transform_gen = build_augmentation


def gen_crop_transform_with_instance(
    crop_size: tuple[int, int], image_size: tuple[int, int], instance: dict[str, Any]
) -> T.CropTransform:
    """Return a random crop of ``crop_size`` (h, w) that contains the centre of the instance."""
    size = np.asarray(crop_size, dtype=np.int32)
    image = np.asarray(image_size, dtype=np.int32)
    assert (image >= size).all(), f"a crop of {crop_size} is larger than the image {image_size}"
    x0, y0, x1, y1 = BoxMode.convert(instance["bbox"], instance["bbox_mode"], BoxMode.XYXY_ABS)
    center = np.array([(y0 + y1) * 0.5, (x0 + x1) * 0.5])
    inside = (center >= 0).all() and (center <= image).all()
    assert inside, "the annotation's centre lies outside the image"
    low = np.maximum(np.floor(center).astype(np.int32) - size, 0)
    high = np.maximum(np.minimum(image - size, np.ceil(center).astype(np.int32)), low)
    top = np.random.randint(low[0], high[0] + 1)
    left = np.random.randint(low[1], high[1] + 1)
    return T.CropTransform(int(left), int(top), int(size[1]), int(size[0]))


def check_metadata_consistency(key: str, dataset_names: Sequence[str]) -> None:
    """Raise ValueError if the data sets' metadata differ in ``key``; they must be joinable."""
    if not dataset_names:
        return
    values = [getattr(MetadataCatalog.get(name), key) for name in dataset_names]
    for name, value in zip(dataset_names, values):
        if value != values[0]:
            raise ValueError(
                f"data sets {dataset_names[0]} and {name} have different metadata '{key}'"
            )
