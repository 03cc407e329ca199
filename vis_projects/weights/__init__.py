"""Weights: reading files safely, whose they are, what a network got, and their names."""

from detectron2.config import CfgNode

from ..config import register_config
from .building import build_for_test, last_weights
from .card import card_of, class_names_of, config_of_checkpoint, is_weights, make_card
from .conversion import convert_file
from .description import describe_file
from .formats import WeightFormat, formats_of, register_weight_format, systems
from .loading import load_for_test, load_for_training, load_weights
from .own_weights import bring_own_weights, own_weights_later
from .reading import WeightsFile, read_weights
from .shipping import save_shipped
from .verdict import Verdict, given_tensors, mark_given, trained_tensors
from .zoo import ZooEntry, get_weights, register_zoo_paths, zoo_entries, zoo_entry, zoo_file


@register_config("weights")
def add_weights_config(cfg: CfgNode) -> None:
    """Add the keys that say how strict loading is."""
    # Test, segment or train a frozen part with weights missing: random numbers take their place.
    cfg.MODEL.ALLOW_MISSING_WEIGHTS = False


register_zoo_paths()

__all__ = [
    "Verdict",
    "WeightFormat",
    "WeightsFile",
    "ZooEntry",
    "bring_own_weights",
    "build_for_test",
    "card_of",
    "class_names_of",
    "config_of_checkpoint",
    "convert_file",
    "describe_file",
    "formats_of",
    "get_weights",
    "given_tensors",
    "is_weights",
    "last_weights",
    "load_for_test",
    "load_for_training",
    "load_weights",
    "make_card",
    "mark_given",
    "own_weights_later",
    "read_weights",
    "register_weight_format",
    "save_shipped",
    "systems",
    "trained_tensors",
    "zoo_entries",
    "zoo_entry",
    "zoo_file",
]
