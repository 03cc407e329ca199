"""The registry of keypoint heads; none is part of this Detectron2."""

from __future__ import annotations

from fvcore.common.registry import Registry

ROI_KEYPOINT_HEAD_REGISTRY = Registry("ROI_KEYPOINT_HEAD")
ROI_KEYPOINT_HEAD_REGISTRY.__doc__ = "Keypoint heads ``(cfg, ShapeSpec)`` by name."
