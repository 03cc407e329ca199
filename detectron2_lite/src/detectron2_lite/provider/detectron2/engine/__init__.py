"""Trainers, hooks, launching and the default set-up."""

from .defaults import *  # noqa: F403
from .hooks import *  # noqa: F403
from .launch import *  # noqa: F403
from .train_loop import *  # noqa: F403

__all__ = [name for name in globals() if not name.startswith("_")]
