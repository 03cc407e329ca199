"""Writers of a training's events that users bring: MLflow, W&B, a database."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter

Builder = TypeVar("Builder", bound=Callable[[CfgNode], EventWriter])
_BUILDERS: list[Callable[[CfgNode], EventWriter]] = []


def register_event_writer(build: Builder) -> Builder:
    """Register a class or function that makes an EventWriter of a config; a decorator.

    It is called in the first process, when a training begins.
    """
    if build not in _BUILDERS:
        _BUILDERS.append(build)
    return build


def registered_event_writers(cfg: CfgNode) -> list[EventWriter]:
    """Build all that is registered."""
    return [build(cfg) for build in _BUILDERS]
