"""Video files and cameras as frame sources."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from ..structures import FolderSource, FrameSource, InputError, IterableSource
from .arrays import array_source


class VideoFileSource(FrameSource):
    """Frames of a video file, decoded by FFmpeg through PyAV.

    Sequential reading decodes every frame once. Random access seeks to the key frame before the
    wanted frame and decodes up to it; reading forward from there costs nothing extra.

    Raises:
        InputError: no such file, no video in it; while reading: a damaged frame.
    """

    def __init__(
        self, file: str | Path, *, image_format: str = "BGR", decode_ahead: int = 4
    ) -> None:
        super().__init__(image_format=image_format, decode_ahead=decode_ahead)
        self.file = str(file)
        if not Path(self.file).is_file():
            raise InputError(f"{self.file}: no such video file")
        self._open: _Decoder | None = None
        self._timestamps: list[int] | None = None
        with self._container() as container:
            stream = container.streams.video[0]
            self._fps = float(stream.average_rate) if stream.average_rate else None
            first = self._first_frame(container)
            self._size = first.shape[:2]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def _container(self) -> av.container.InputContainer:
        try:
            container = av.open(self.file)
        except (av.error.FFmpegError, OSError) as error:
            raise InputError(f"{self.file}: cannot read this video ({_reason(error)})") from None
        if not container.streams.video:
            container.close()
            raise InputError(f"{self.file}: there is no video stream in this file")
        container.streams.video[0].thread_type = "AUTO"
        return container

    def _first_frame(self, container: av.container.InputContainer) -> np.ndarray:
        try:
            return self._convert(next(container.decode(video=0)))
        except (StopIteration, av.error.FFmpegError) as error:
            raise InputError(f"{self.file}: no frame can be decoded ({_reason(error)})") from None

    def _convert(self, frame: av.VideoFrame) -> np.ndarray:
        return frame.to_ndarray(format="bgr24" if self.image_format == "BGR" else "rgb24")

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    @property
    def fps(self) -> float | None:
        return self._fps

    @property
    def timestamps(self) -> list[int]:
        """Presentation time of every frame in stream units, read from the packets."""
        if self._timestamps is None:
            with self._container() as container:
                packets = container.demux(container.streams.video[0])
                times = [p.pts for p in packets if p.pts is not None and not p.is_corrupt]
            self._timestamps = sorted(times)
        return self._timestamps

    @property
    def length(self) -> int:
        return len(self.timestamps)

    def read_all(self) -> Iterator[np.ndarray]:
        count = 0
        with self._container() as container:
            try:
                for frame in container.decode(video=0):
                    yield self._convert(frame)
                    count += 1
            except av.error.FFmpegError as error:
                raise InputError(
                    f"{self.file}: frame {count} is damaged ({_reason(error)}); "
                    "cut or re-encode the video"
                ) from None
        if count < self.length:
            raise InputError(
                f"{self.file}: only {count} of {self.length} frames can be decoded; the file is "
                "truncated or damaged: re-encode it"
            )

    def read(self, index: int) -> np.ndarray:
        if self._open is None:
            self._open = _Decoder(self._container(), self.timestamps)
        try:
            return self._convert(self._open.frame(index))
        except (StopIteration, av.error.FFmpegError) as error:
            self.close()
            raise InputError(
                f"{self.file}: frame {index} cannot be decoded ({_reason(error)}); "
                "cut or re-encode the video"
            ) from None

    def close(self) -> None:
        if self._open is not None:
            self._open.container.close()
            self._open = None


class _Decoder:
    """An open container that remembers where it stands."""

    def __init__(self, container: av.container.InputContainer, timestamps: list[int]) -> None:
        self.container = container
        self.timestamps = timestamps
        self.frames: Iterator[av.VideoFrame] = container.decode(video=0)
        self.next_index = 0

    def frame(self, index: int) -> av.VideoFrame:
        if index < self.next_index or index > self.next_index + 32:
            stream = self.container.streams.video[0]
            self.container.seek(self.timestamps[index], stream=stream, backward=True)
            self.frames = self.container.decode(video=0)
        wanted = self.timestamps[index]
        while True:
            frame = next(self.frames)
            if frame.pts is None or frame.pts >= wanted:
                self.next_index = index + 1
                return frame


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


def open_source(spec: Any, *, image_format: str = "BGR", rgb: bool | None = None) -> FrameSource:
    """Make a frame source of whatever a user has.

    Args:
        spec: a FrameSource, a video file, a folder of images, one image, a camera number (int or a
            string of digits), or frames in memory (``arrays.array_source``).
        image_format: channel order of the frames that come out.
        rgb: arrays are RGB (True) or BGR (False); None: they are in ``image_format``.

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
    if isinstance(spec, int) or (isinstance(spec, str) and spec.isdigit()):
        return CameraSource(int(spec), image_format=image_format)
    if isinstance(spec, (str, Path)):
        path = Path(spec).expanduser()
        if path.is_dir():
            return FolderSource(path, image_format=image_format)
        if not path.exists():
            raise InputError(
                f"{path}: no such file or folder; give a video, a folder of frames or a camera "
                "number"
            )
        from ..structures.frame_source import IMAGE_SUFFIXES

        if path.suffix.lower() in IMAGE_SUFFIXES:
            return FolderSource([path], image_format=image_format)
        return VideoFileSource(path, image_format=image_format)
    source = array_source(
        spec, rgb=image_format == "RGB" if rgb is None else rgb, image_format=image_format
    )
    if source is not None:
        return source
    raise InputError(f"{type(spec).__name__} is no video: give a file, folder, array or camera")


def _reason(error: BaseException) -> str:
    text = str(getattr(error, "strerror", None) or error or type(error).__name__)
    return " ".join(text.split())
