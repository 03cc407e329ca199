"""The catalogue: names of data sets, where they lie, and their metadata."""

from ..formats.video_record import Video
from .registration import (
    Loader,
    dataset_root,
    get_metadata,
    identity_offsets,
    load_videos,
    num_identities,
    number_identities,
    register_dataset,
    register_name_pattern,
    register_root_loader,
    unregister_dataset,
)

__all__ = [
    "Loader",
    "Video",
    "dataset_root",
    "get_metadata",
    "identity_offsets",
    "load_videos",
    "num_identities",
    "number_identities",
    "register_dataset",
    "register_name_pattern",
    "register_root_loader",
    "unregister_dataset",
]
