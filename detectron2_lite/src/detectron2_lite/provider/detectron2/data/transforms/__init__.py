"""Deterministic transforms (fvcore's and four more) and random augmentations."""

from fvcore.transforms.transform import *  # noqa: F403

from .augmentation import *  # noqa: F403
from .augmentation_impl import *  # noqa: F403
from .transform import *  # noqa: F403

__all__ = [name for name in globals() if not name.startswith("_")]
