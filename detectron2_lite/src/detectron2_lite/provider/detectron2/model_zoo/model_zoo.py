"""Look-ups in Detectron2's model zoo: configs shipped here, addresses of trained weights."""

from __future__ import annotations

import os
from importlib import resources

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from torch import nn

__all__ = ["get", "get_checkpoint_url", "get_config", "get_config_file"]

_PREFIX = "https://dl.fbaipublicfiles.com/detectron2/"
# config without ".yaml": number of the training and file of the weights, below _PREFIX
_WEIGHTS = {
    "COCO-Detection/faster_rcnn_R_101_FPN_3x": "137851257/model_final_f6e8b1.pkl",
    "COCO-Detection/faster_rcnn_R_50_FPN_3x": "137849458/model_final_280758.pkl",
    "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x": "138205316/model_final_a3ec72.pkl",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x": "137260431/model_final_a54504.pkl",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x": "137849600/model_final_f10217.pkl",
    "COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x": "139653917/model_final_2d9806.pkl",
    "Misc/cascade_mask_rcnn_R_50_FPN_1x": "138602847/model_final_e9d89b.pkl",
    "Misc/cascade_mask_rcnn_R_50_FPN_3x": "144998488/model_final_480dd8.pkl",
}


def get_checkpoint_url(config_path: str) -> str:
    """Address of the weights trained with that config, such as ``Misc/....yaml``.

    Raises RuntimeError, with the known ones, if there is none.
    """
    name = config_path.removesuffix(".yaml")
    if name not in _WEIGHTS:
        known = ", ".join(f"{key}.yaml" for key in _WEIGHTS)
        raise RuntimeError(f"{config_path} has no trained weights here; known: {known}")
    return f"{_PREFIX}{name}/{_WEIGHTS[name]}"


def get_config_file(config_path: str) -> str:
    """Path of a shipped config file. Raises RuntimeError, with what is there, if it is not."""
    root = str(resources.files("detectron2.model_zoo") / "configs")
    path = os.path.join(root, config_path)
    if not os.path.isfile(path):
        found = sorted(
            os.path.relpath(os.path.join(folder, name), root)
            for folder, _, names in os.walk(root)
            for name in names
            if name.endswith(".yaml")
        )
        raise RuntimeError(f"{config_path} is not shipped here; there are: {', '.join(found)}")
    return path


def get_config(config_path: str, trained: bool = False) -> CfgNode:
    """The config of that name; with ``trained`` its WEIGHTS are those of the trained model."""
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(config_path))
    if trained:
        cfg.MODEL.WEIGHTS = get_checkpoint_url(config_path)
    return cfg


def get(config_path: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """Build the model and load its weights, which are downloaded once.

    ``trained``: the trained model instead of the initial backbone. ``device``: default CUDA where
    there is one.
    """
    cfg = get_config(config_path, trained)
    if device is None and not torch.cuda.is_available():
        device = "cpu"
    if device is not None:
        cfg.MODEL.DEVICE = device
    model = build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    return model
