"""Frames of a source that cannot seek, kept in a temporary folder for systems that must."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2

from ..structures import FolderSource, FrameSource, InputError


@contextmanager
def seekable(source: FrameSource, limit_mb: float) -> Iterator[FrameSource]:
    """Give a source that can seek: the same, or its frames as lossless PNGs in a temporary folder.

    Raises:
        InputError: the frames would exceed ``limit_mb`` megabytes on disk.
    """
    if source.seekable and source.length is not None:
        source.settle()
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="frames-") as folder:
        files, used = [], 0
        for frame in source:
            array = frame.array()
            if source.image_format == "RGB":
                array = array[..., ::-1]
            file = Path(folder) / f"{frame.index:08d}.png"
            if not cv2.imwrite(str(file), array, [cv2.IMWRITE_PNG_COMPRESSION, 1]):
                raise InputError(f"{file}: cannot write this frame; is the temporary folder full?")
            files.append(file)
            used += file.stat().st_size
            if used > limit_mb * 1e6:
                raise InputError(
                    f"the stream exceeds MODEL.SPOOL_LIMIT_MB ({limit_mb:g}) after frame "
                    f"{frame.index}: raise the limit, or record the stream to an mp4 first"
                )
        if not files:
            raise InputError("the stream ended before its first frame")
        names = [source.name(i) for i in range(len(files))]
        yield FolderSource(files, image_format=source.image_format, names=names, size=source.size)
