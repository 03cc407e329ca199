"""Frames in, tracks out: the data types that all systems share."""

from .device import resolve_device, resolve_dtype, warn_of_slow_bfloat16
from .errors import InputError, one_line_errors
from .frame_source import (
    ArraySource,
    FolderSource,
    Frame,
    FrameSource,
    IterableSource,
)
from .image_files import (
    MASK_SUFFIXES,
    as_posix,
    image_size,
    list_folder,
    list_images,
    read_image,
    read_lines,
    tell_once,
)
from .mask_images import is_soft, object_ids, read_foreground, read_ids
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
    on_device,
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
    "list_folder",
    "MASK_SUFFIXES",
    "as_posix",
    "image_size",
    "read_lines",
    "tell_once",
    "is_soft",
    "object_ids",
    "read_ids",
    "read_foreground",
    "mask_area",
    "masks_of",
    "masks_to_label_map",
    "on_device",
    "mean_score",
    "near_names",
    "one_line_errors",
    "pack_masks",
    "read_image",
    "resolve_device",
    "resolve_dtype",
    "warn_of_slow_bfloat16",
]
