"""Configuration: CfgNode, the defaults, and ``configurable``."""

from __future__ import annotations

from detectron2.config.config import CfgNode, configurable, get_cfg, global_cfg, set_global_cfg

__all__ = ["CfgNode", "configurable", "get_cfg", "global_cfg", "set_global_cfg"]
