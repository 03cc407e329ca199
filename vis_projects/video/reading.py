"""Whatever a user has as a frame source: a file, a folder, a camera, frames in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..structures import FolderSource, FrameSource, InputError, IterableSource
from ..structures.image_files import IMAGE_SUFFIXES, count_pages
from .arrays import array_source
from .video_file import VideoFileSource


class CameraSource(IterableSource):
    """A camera, by its number.

    Raises:
        InputError: the camera cannot be opened.
    """

    def __init__(self, number: int, *, image_format: str = "BGR") -> None:
        self._capture = cv2.VideoCapture(number)
        if not self._capture.isOpened():
            raise InputError(f"camera {number}: cannot be opened; is it connected and free?")
        self._fps = self._capture.get(cv2.CAP_PROP_FPS) or None
        super().__init__(self._shots(image_format == "RGB"), image_format=image_format)

    def _shots(self, rgb: bool) -> Iterator[np.ndarray]:
        while True:
            good, image = self._capture.read()
            if not good:
                return
            yield np.ascontiguousarray(image[..., ::-1]) if rgb else image

    @property
    def fps(self) -> float | None:
        return self._fps

    def close(self) -> None:
        self._capture.release()


def open_source(
    spec: Any,
    *,
    image_format: str = "BGR",
    rgb: bool | None = None,
    exclude: Sequence[str | Path] = (),
) -> FrameSource:
    """Make a frame source of whatever a user has.

    Args:
        spec: a FrameSource, a video file, a folder of images, one image, a camera number (int, or a
            string of digits that names no file), or frames in memory (``arrays.array_source``).
        image_format: channel order of the frames that come out.
        rgb: arrays are RGB (True) or BGR (False); None: they are in ``image_format``.
        exclude: files that are no frames, such as a mask among them.

    Raises:
        InputError: nothing of these.
    """
    if isinstance(spec, FrameSource):
        if spec.image_format != image_format:
            raise InputError(
                f"the source gives {spec.image_format} frames but INPUT.FORMAT is {image_format}: "
                f"open it with image_format={image_format!r}"
            )
        return spec
    if isinstance(spec, int):
        return CameraSource(spec, image_format=image_format)
    if isinstance(spec, str) and spec.isdigit() and not Path(spec).exists():
        return CameraSource(int(spec), image_format=image_format)
    if isinstance(spec, (str, Path)):
        path = Path(spec).expanduser()
        if path.is_dir():
            return FolderSource(path, image_format=image_format, exclude=exclude)
        if not path.exists():
            raise InputError(
                f"{path}: no such file or folder; give a video, a folder of frames or a camera "
                "number"
            )
        if path.suffix.lower() in IMAGE_SUFFIXES:
            pages = count_pages(path)
            if pages > 1:
                raise InputError(
                    f"{path}: an image file of {pages} frames; save them as a video, or as files "
                    "of a folder"
                )
            return FolderSource([path], image_format=image_format)
        return VideoFileSource(path, image_format=image_format)
    source = array_source(
        spec, rgb=image_format == "RGB" if rgb is None else rgb, image_format=image_format
    )
    if source is not None:
        return source
    raise InputError(f"{type(spec).__name__} is no video: give a file, folder, array or camera")
