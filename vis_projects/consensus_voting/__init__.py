"""ConsensusVoting: class-agnostic masks that a whole video agrees on; no training of its own."""

from . import config as _config  # noqa: F401  registers the options
from .model import ConsensusVoting

__all__ = ["ConsensusVoting"]
