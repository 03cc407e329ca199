"""Data sets, the synthetic data set, frame samplers, clip augmentation and loaders."""

from .catalog.benchmarks import register_benchmarks
from .catalog.class_maps import (
    apply_class_map,
    class_agnostic,
    class_map_names,
    load_categories,
    load_class_map,
)
from .catalog.own_data import register_coco_json, register_folders, register_ytvis_json
from .catalog.registration import (
    dataset_root,
    get_metadata,
    identity_offsets,
    load_videos,
    num_identities,
    register_dataset,
    unregister_dataset,
)
from .catalog.ytvis_places import load_known_ytvis
from .clips.clip import Clip, Objects
from .clips.clip_mapper import ClipMapper, read_clip, read_objects
from .clips.frame_samplers import (
    FRAME_SAMPLER_REGISTRY,
    ClipItem,
    FrameSampler,
    build_frame_sampler,
    register_frame_sampler,
)
from .clips.sampling_order import BatchOrder, WeightedMix, repeat_factors
from .clips.visibility import VideoIndex
from .config import add_data_config
from .formats.davis import load_davis
from .formats.label_folders import load_label_folders
from .formats.label_maps import GivenMasks, LabelFiles, LabelMapAnnotations, read_label_map
from .formats.stills import load_coco_stills, stills_as_videos
from .formats.video_record import frame_source
from .formats.youtube_vos import load_youtube_vos
from .formats.ytvis import load_ytvis_json
from .synthetic.dead_leaves import register_dead_leaves
from .synthetic.moving_shapes import (
    SyntheticOptions,
    load_synthetic,
    parse_name,
    register_standard_sets,
    register_synthetic,
)
from .synthetic.still_scenes import register_still_scenes
from .test_loader import TestMapper, build_test_loader, given_masks
from .train_loader import ClipDataset, TrainLoader, build_clip_dataset, build_train_loader


def register_builtin() -> None:
    """Register every known data set; names that exist already are skipped."""
    register_benchmarks()
    register_standard_sets()
    register_dead_leaves()


register_builtin()

__all__ = [
    "FRAME_SAMPLER_REGISTRY",
    "BatchOrder",
    "Clip",
    "ClipDataset",
    "ClipItem",
    "ClipMapper",
    "FrameSampler",
    "GivenMasks",
    "LabelFiles",
    "LabelMapAnnotations",
    "Objects",
    "SyntheticOptions",
    "TestMapper",
    "TrainLoader",
    "VideoIndex",
    "WeightedMix",
    "add_data_config",
    "apply_class_map",
    "build_clip_dataset",
    "build_frame_sampler",
    "build_test_loader",
    "build_train_loader",
    "class_agnostic",
    "class_map_names",
    "dataset_root",
    "frame_source",
    "get_metadata",
    "given_masks",
    "identity_offsets",
    "load_categories",
    "load_class_map",
    "load_coco_stills",
    "load_davis",
    "load_known_ytvis",
    "load_label_folders",
    "load_synthetic",
    "load_videos",
    "load_youtube_vos",
    "load_ytvis_json",
    "num_identities",
    "parse_name",
    "read_clip",
    "read_label_map",
    "read_objects",
    "register_builtin",
    "register_coco_json",
    "register_dataset",
    "register_folders",
    "register_frame_sampler",
    "register_still_scenes",
    "register_synthetic",
    "register_ytvis_json",
    "repeat_factors",
    "stills_as_videos",
    "unregister_dataset",
]
