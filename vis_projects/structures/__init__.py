"""Frames in, tracks out: the data types that all systems share."""

from .device import resolve_device
from .errors import InputError, one_line_errors
from .frame_source import (
    ArraySource,
    FolderSource,
    Frame,
    FrameSource,
    IterableSource,
    list_images,
    read_image,
)
from .masks import (
    RLE,
    PackedMasks,
    decode_mask,
    decode_masks,
    encode_masks,
    encode_packed,
    label_map_to_masks,
    mask_area,
    masks_of,
    masks_to_label_map,
    pack_masks,
)
from .near_names import check_name, near_names
from .recorder import TrackRecord, TrackRecorder, mean_score
from .video_result import FrameResult, Track, VideoInfo, VideoResult

__all__ = [
    "RLE",
    "ArraySource",
    "FolderSource",
    "Frame",
    "FrameResult",
    "FrameSource",
    "InputError",
    "IterableSource",
    "PackedMasks",
    "Track",
    "TrackRecord",
    "TrackRecorder",
    "VideoInfo",
    "VideoResult",
    "check_name",
    "decode_mask",
    "decode_masks",
    "encode_masks",
    "encode_packed",
    "label_map_to_masks",
    "list_images",
    "mask_area",
    "masks_of",
    "masks_to_label_map",
    "mean_score",
    "near_names",
    "one_line_errors",
    "pack_masks",
    "read_image",
    "resolve_device",
]
