"""Data sets, the synthetic data set, frame samplers, clip augmentation and loaders."""

from .builtin import register_builtin
from .catalog import (
    dataset_root,
    get_metadata,
    identity_offsets,
    load_videos,
    num_identities,
    register_dataset,
    unregister_dataset,
)
from .davis import load_davis
from .label_maps import GivenMasks, LabelFiles, LabelMapAnnotations, read_label_map
from .synthetic import SyntheticOptions, load_synthetic, parse_name, register_synthetic
from .test_loader import TestMapper, build_test_loader, frame_source, given_masks

register_builtin()

__all__ = [
    "GivenMasks",
    "LabelFiles",
    "LabelMapAnnotations",
    "SyntheticOptions",
    "TestMapper",
    "build_test_loader",
    "dataset_root",
    "frame_source",
    "get_metadata",
    "given_masks",
    "identity_offsets",
    "load_davis",
    "load_synthetic",
    "load_videos",
    "num_identities",
    "parse_name",
    "read_label_map",
    "register_builtin",
    "register_dataset",
    "register_synthetic",
    "unregister_dataset",
]
