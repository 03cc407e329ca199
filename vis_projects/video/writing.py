"""Writing videos that every player shows, and never half a file."""

from __future__ import annotations

import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np

from ..structures import InputError
from .video_file import as_url

_CLOCK = 90000  # ticks a second, where frames bring their own times
_MP4_AUDIO = ("aac", "mp3", "ac3", "eac3", "alac", "opus", "flac")


class VideoWriter:
    """Writes RGB frames to an H.264 mp4 that browsers play while it loads; a context manager.

    The file appears under its name when the context ends without an error; until then it has the
    suffix ``.part``, which is removed when an error ends the context. Odd sizes lose one row or
    column, as the codec demands.

    Args:
        file: the mp4.
        fps: frames per second, where frames do not bring their times.
        crf: quality of H.264, 0 (lossless) to 51.
        pixel_aspect: width of a pixel by its height, for players.
    """

    def __init__(
        self,
        file: str | Path,
        *,
        fps: float = 24.0,
        crf: int = 20,
        pixel_aspect: Fraction = Fraction(1),
    ) -> None:
        self.file = Path(file)
        self.part = self.file.with_name(self.file.name + ".part")
        self.crf = crf
        self.pixel_aspect = pixel_aspect
        self.fps = Fraction(fps).limit_denominator(1001)
        self._container: av.container.OutputContainer | None = None
        self._stream: av.video.stream.VideoStream | None = None
        self._last = -1  # time stamp of the newest frame

    def _start(self, height: int, width: int) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._container = av.open(
                as_url(self.part), "w", format="mp4", options={"movflags": "+faststart"}
            )
        except (av.error.FFmpegError, OSError) as error:
            raise InputError(f"{self.file}: cannot write this video ({error})") from None
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        self._stream = self._container.add_stream(codec, rate=self.fps)
        self._stream.height, self._stream.width = height // 2 * 2, width // 2 * 2
        self._stream.pix_fmt = "yuv420p"
        if self.pixel_aspect != 1:
            self._stream.sample_aspect_ratio = self.pixel_aspect
        if codec == "libx264":
            self._stream.options = {"crf": str(self.crf), "preset": "veryfast"}

    def add(self, image: np.ndarray, time: float | None = None) -> None:
        """Append an RGB uint8 frame (H, W, 3), shown from ``time`` seconds on (rising; all frames
        have one, or none)."""
        if self._stream is None:
            self._start(*image.shape[:2])
            if time is not None:
                self._stream.codec_context.time_base = Fraction(1, _CLOCK)
        even = np.ascontiguousarray(image[: self._stream.height, : self._stream.width])
        frame = av.VideoFrame.from_ndarray(even, format="rgb24")
        if time is not None:
            frame.pts = self._last = max(round(time * _CLOCK), self._last + 1)
            frame.time_base = Fraction(1, _CLOCK)
        for packet in self._stream.encode(frame):
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
        try:
            if kind is None:
                for packet in self._stream.encode():
                    self._container.mux(packet)
                self._container.close()
                os.replace(self.part, self.file)
            else:
                with suppress(OSError):  # a full disk: what was raised first is what counts
                    self._container.close()
        finally:
            self.part.unlink(missing_ok=True)


def add_audio(video: Path, source: str | Path) -> bool:
    """Put the first sound track of ``source`` beside the picture of ``video``, in place.

    The sound is copied where an mp4 may hold its codec, else encoded as AAC; it ends with the
    picture. Returns False, and leaves the file alone, where the source has no sound.
    """
    part = video.with_name(video.name + ".part")
    try:
        with av.open(as_url(source)) as sound, av.open(as_url(video)) as picture:
            if not sound.streams.audio:
                return False
            options = {"movflags": "+faststart"}
            with av.open(as_url(part), "w", format="mp4", options=options) as out:
                _join(picture, sound, out)
        os.replace(part, video)
    finally:
        part.unlink(missing_ok=True)
    return True


def _join(
    picture: av.container.InputContainer,
    sound: av.container.InputContainer,
    out: av.container.OutputContainer,
) -> None:
    shown, heard = picture.streams.video[0], sound.streams.audio[0]
    video = out.add_stream_from_template(shown)
    end = float((shown.duration or 0) * shown.time_base) or float("inf")
    if heard.codec_context.name in _MP4_AUDIO:
        audio = out.add_stream_from_template(heard)
        packets = (p for p in sound.demux(heard) if p.dts is not None)
    else:
        audio = out.add_stream("aac", rate=heard.codec_context.sample_rate)
        packets = (p for frame in sound.decode(heard) for p in audio.encode(frame))
    for packet in picture.demux(shown):
        if packet.dts is not None:
            packet.stream = video
            out.mux(packet)
    for packet in packets:
        if packet.pts is not None and float(packet.pts * packet.time_base) >= end:
            break
        packet.stream = audio
        out.mux(packet)
