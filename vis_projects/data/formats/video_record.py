"""The record of a video: what every loader returns, whatever the format on disk.

A *video* is a dict with ``video_id``, ``name``, ``file_names`` (or ``source``, a picklable callable
that makes a FrameSource from an image format), ``height``, ``width``, ``length``, ``objects``
(``{"id", "category_id"[, "identity"]}`` each) and ``annotations``: for every frame a list of
``{"id", "category_id", "bbox", "bbox_mode", "segmentation", "iscrowd"}``; None without ground
truth. Categories are contiguous from 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...structures import FolderSource, FrameSource

Video = dict[str, Any]


def frame_source(video: Video, *, image_format: str = "BGR") -> FrameSource:
    """Return the frames of a video dict as a lazy source."""
    if "source" in video:
        return video["source"](image_format)
    return FolderSource(
        video["file_names"],
        image_format=image_format,
        names=frame_names(video),
        size=(video["height"], video["width"]),
    )


def frame_names(video: Video) -> list[str]:
    """Return the stems of a video's output files."""
    if "file_names" in video:
        return [Path(f).stem for f in video["file_names"]]
    return [f"{t:05d}" for t in range(video["length"])]
