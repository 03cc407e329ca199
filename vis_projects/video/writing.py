"""Writing videos that every player shows, and never half a file."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np

from ..structures import InputError


class VideoWriter:
    """Writes RGB frames to an H.264 mp4; a context manager.

    The file appears under its name when the context ends without an error; until then it has the
    suffix ``.part``, which is removed when an error ends the context. Odd sizes lose one row or
    column, as the codec demands.
    """

    def __init__(self, file: str | Path, *, fps: float = 24.0) -> None:
        self.file = Path(file)
        self.part = self.file.with_name(self.file.name + ".part")
        self.fps = Fraction(fps).limit_denominator(1001)
        self._container: av.container.OutputContainer | None = None
        self._stream: av.video.stream.VideoStream | None = None

    def _start(self, height: int, width: int) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._container = av.open(str(self.part), "w", format="mp4")
        except (av.error.FFmpegError, OSError) as error:
            raise InputError(f"{self.file}: cannot write this video ({error})") from None
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        self._stream = self._container.add_stream(codec, rate=self.fps)
        self._stream.height, self._stream.width = height // 2 * 2, width // 2 * 2
        self._stream.pix_fmt = "yuv420p"
        if codec == "libx264":
            self._stream.options = {"crf": "20", "preset": "veryfast"}

    def add(self, image: np.ndarray) -> None:
        """Append an RGB uint8 frame (H, W, 3)."""
        if self._stream is None:
            self._start(*image.shape[:2])
        even = np.ascontiguousarray(image[: self._stream.height, : self._stream.width])
        for packet in self._stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")):
            self._container.mux(packet)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._container is None:
            return
        if kind is None:
            for packet in self._stream.encode():
                self._container.mux(packet)
        self._container.close()
        if kind is None:
            os.replace(self.part, self.file)
        else:
            self.part.unlink(missing_ok=True)
