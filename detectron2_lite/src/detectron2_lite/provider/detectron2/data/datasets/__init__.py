"""Data sets in COCO's format; importing registers those known by name."""

from . import builtin
from .coco import convert_to_coco_json, load_coco_json, register_coco_instances

__all__ = ["builtin", "convert_to_coco_json", "load_coco_json", "register_coco_instances"]
