"""The registration functions under their older module name."""

from __future__ import annotations

from .coco import register_coco_instances

__all__ = ["register_coco_instances"]
