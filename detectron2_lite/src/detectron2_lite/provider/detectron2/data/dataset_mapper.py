"""From a data set's dict to what a model takes."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode as _CfgNode
from detectron2.config import configurable

from . import detection_utils as utils
from . import transforms as T

__all__ = ["DatasetMapper"]


class DatasetMapper:
    """Read the image, augment image and annotations, convert them to tensors and Instances.

    The result has ``image`` (C, H, W) uint8 and, in training, ``instances``. ``height`` and
    ``width`` stay those of the file. The given dict is not changed.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        use_instance_mask: bool = False,
        instance_mask_format: str = "polygon",
        recompute_boxes: bool = False,
    ) -> None:
        """``recompute_boxes`` takes the boxes from the masks, which are exact after a crop."""
        if recompute_boxes:
            assert use_instance_mask, "recompute_boxes needs instance masks"
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.use_instance_mask = use_instance_mask
        self.instance_mask_format = instance_mask_format
        self.recompute_boxes = recompute_boxes
        mode = "training" if is_train else "inference"
        logging.getLogger(__name__).info("Augmentations used in %s: %s", mode, augmentations)

    @classmethod
    def from_config(cls, cfg: _CfgNode, is_train: bool = True) -> dict[str, Any]:
        if cfg.MODEL.KEYPOINT_ON or cfg.MODEL.LOAD_PROPOSALS:
            raise NotImplementedError("keypoints and precomputed proposals are not supported")
        augmentations = utils.build_augmentation(cfg, is_train)
        crop = cfg.INPUT.CROP
        cropping = crop.ENABLED and is_train
        if cropping:
            augmentations.insert(0, T.RandomCrop(crop.TYPE, crop.SIZE))
        return {
            "is_train": is_train,
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "use_instance_mask": cfg.MODEL.MASK_ON,
            "instance_mask_format": cfg.INPUT.MASK_FORMAT,
            "recompute_boxes": cropping and cfg.MODEL.MASK_ON,
        }

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: T.Transform, image_shape: tuple[int, int]
    ) -> None:
        annotations = []
        for annotation in dataset_dict.pop("annotations"):
            if annotation.get("iscrowd", 0) != 0:
                continue
            annotation.pop("keypoints", None)
            if not self.use_instance_mask:
                annotation.pop("segmentation", None)
            annotations.append(
                utils.transform_instance_annotations(annotation, transforms, image_shape)
            )
        instances = utils.annotations_to_instances(
            annotations, image_shape, mask_format=self.instance_mask_format
        )
        if self.recompute_boxes and instances.has("gt_masks"):
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        dataset_dict["instances"] = utils.filter_empty_instances(instances)

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        dataset_dict = copy.deepcopy(dataset_dict)
        image = utils.read_image(dataset_dict["file_name"], format=self.image_format)
        utils.check_image_size(dataset_dict, image)
        label_map = None
        if "sem_seg_file_name" in dataset_dict:
            label_map = utils.read_image(dataset_dict.pop("sem_seg_file_name"), "L")[:, :, 0]

        aug_input = T.AugInput(image, sem_seg=label_map)
        transforms = self.augmentations(aug_input)
        image_shape = aug_input.image.shape[:2]
        dataset_dict["image"] = torch.as_tensor(
            np.ascontiguousarray(aug_input.image.transpose(2, 0, 1))
        )
        if not self.is_train:
            dataset_dict.pop("annotations", None)
            return dataset_dict
        if aug_input.sem_seg is not None:
            dataset_dict["sem_seg"] = torch.as_tensor(aug_input.sem_seg.astype("int64"))
        if "annotations" in dataset_dict:
            self._transform_annotations(dataset_dict, transforms, image_shape)
        return dataset_dict
