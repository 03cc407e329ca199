"""Options of the system, under ``MODEL.MOVING_FOREGROUND``."""

from __future__ import annotations

from detectron2.config import CfgNode

from vis_projects.config import register_config


@register_config("moving_foreground")
def add_moving_foreground_config(cfg: CfgNode) -> None:
    """Add the keys of this package."""
    options = cfg.MODEL.MOVING_FOREGROUND = CfgNode()
    # Channels of the network.
    options.WIDTH = 16
    # A pixel is foreground above this probability.
    options.THRESH = 0.5
