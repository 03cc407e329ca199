"""Frames of a video file, as players show them: turned upright, cut by edit lists, to the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData

from ..structures import FrameSource, InputError, tell_once

_REACH = 32  # frames ahead that are decoded rather than sought
_NO_VIDEO = ("tty", "subviewer", "srt", "webvtt", "ass")  # formats that draw text as pictures


_HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics of ITU-T H.273


def as_url(file: str | Path) -> str:
    """Return a file's name as FFmpeg takes it; a colon in it is no protocol then."""
    return f"file:{file}"


class VideoFileSource(FrameSource):
    """Frames of a video file, decoded by FFmpeg through PyAV.

    Sequential reading decodes every frame once. Random access seeks to the key frame before the
    wanted frame and decodes up to it; reading forward from there costs nothing extra. Frames that
    cannot be decoded are passed over, as players do, and a warning says how many came out.

    ``length`` counts packets, which is quick, unless time stamps are missing or packets are marked
    as not shown; ``settle`` decodes the file once and makes it exact. A display matrix of quarter
    turns and mirrors is applied. Frames of another size than the first are scaled to it. Pixels are
    never stretched: ``pixel_aspect`` says how wide players show one of height 1.

    Raises:
        InputError: no such file, no video in it, or no frame that can be decoded.
    """

    def __init__(
        self, file: str | Path, *, image_format: str = "BGR", decode_ahead: int = 4
    ) -> None:
        super().__init__(image_format=image_format, decode_ahead=decode_ahead)
        self.file = str(file)
        if not Path(self.file).is_file():
            raise InputError(f"{self.file}: no such video file")
        self._open: _Decoder | None = None
        self._timestamps: list[int | None] | None = None
        self._packets: _Packets | None = None
        self._passed: list[int | None] = []  # times of the frames that were iterated
        with self._container() as container:
            stream = _video_stream(container)
            rate = stream.average_rate or stream.guessed_rate or stream.base_rate
            self._fps = float(rate) if rate and 0 < float(rate) < 1000 else None
            self._time_base = float(stream.time_base) if stream.time_base else None
            first = next(_decoded(container), None)
            if first is None:
                raise InputError(
                    f"{self.file}: no frame can be decoded; the file is cut off or damaged, or its "
                    f"format ({stream.codec_context.name}) is not supported: re-encode it"
                )
            self._coded_size = (first.width, first.height)
            self._turn = display_turn(first)
            aspect = stream.sample_aspect_ratio or Fraction(1)
            self.pixel_aspect = 1 / aspect if self._turn[0] else aspect
            kind = _HDR.get(int(getattr(first, "color_trc", 0)))
            if kind is not None:
                tell_once(
                    f"{self.file}: an HDR video ({kind}); its colours come out pale, convert it to "
                    "SDR (BT.709) if results disappoint"
                )
            self._size = self._convert(first).shape[:2]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def _container(self) -> av.container.InputContainer:
        try:  # nothing but the file itself: a play list must not reach out to the network
            container = av.open(as_url(self.file), options={"protocol_whitelist": "file"})
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise InputError(f"{self.file}: cannot read this video ({_reason(error)})") from None
        if not container.streams.video or container.format.name in _NO_VIDEO:
            container.close()
            raise InputError(f"{self.file}: there is no video stream in this file")
        if _video_stream(container).codec_context is None:
            container.close()
            raise InputError(f"{self.file}: the format of this video is unknown; re-encode it")
        _video_stream(container).thread_type = "AUTO"
        return container

    def _convert(self, frame: av.VideoFrame) -> np.ndarray:
        if (frame.width, frame.height) != self._coded_size:
            frame = frame.reformat(*self._coded_size)
        image = frame.to_ndarray(format="bgr24" if self.image_format == "BGR" else "rgb24")
        return turned(image, self._turn)

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    @property
    def fps(self) -> float | None:
        return self._fps

    @property
    def timestamps(self) -> list[int | None]:
        """Presentation time of every frame in stream units; the file is decoded once for it."""
        if self._timestamps is None:
            with self._container() as container:
                self._timestamps = [frame.pts for frame in _decoded(container)]
        return self._timestamps

    def time(self, index: int) -> float | None:
        known = self._timestamps if self._timestamps is not None else self._passed
        if self._time_base is None or index >= len(known):
            return None
        first, this = known[0], known[index]
        return None if first is None or this is None else (this - first) * self._time_base

    def settle(self) -> None:
        if self._timestamps is None:
            self._compare(len(self.timestamps))

    @property
    def length(self) -> int:
        if self._timestamps is not None:
            return len(self._timestamps)
        packets = self._counted()
        return packets.shown if packets.plain else len(self.timestamps)

    def _counted(self) -> _Packets:
        if self._packets is None:
            with self._container() as container:
                self._packets = _count_packets(container)
        return self._packets

    def read_all(self) -> Iterator[np.ndarray]:
        count = 0
        with self._container() as container:
            self._passed = []
            for frame in _decoded(container):
                self._passed.append(frame.pts)
                yield self._convert(frame)
                count += 1
        self._compare(count)

    def _compare(self, count: int) -> None:
        """Say so where fewer frames came out than the file promises."""
        packets = self._counted()
        if count < packets.shown + packets.lost:
            self.shortfall = (
                f"{self.file}: {count} of {packets.shown + packets.lost} frames can be decoded; "
                "the rest is cut off or damaged"
            )
            tell_once(self.shortfall)

    def read(self, index: int) -> np.ndarray:
        if self._open is None:
            self._open = _Decoder(self._container, self.timestamps)
        try:
            return self._convert(self._open.frame(index))
        except (StopIteration, IndexError, av.error.FFmpegError) as error:
            self.close()
            raise InputError(
                f"{self.file}: frame {index} cannot be decoded ({_reason(error)}); "
                "cut or re-encode the video"
            ) from None

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


class _Decoder:
    """An open container that remembers where it stands."""

    def __init__(
        self,
        open_container: Callable[[], av.container.InputContainer],
        timestamps: list[int | None],
    ) -> None:
        self.open_container = open_container
        self.container: av.container.InputContainer | None = None
        self.timestamps = timestamps
        times = [t for t in timestamps if t is not None]
        # frames can be sought only where every one has a time of its own
        self.by_time = len(times) == len(timestamps) and all(a < b for a, b in pairwise(times))
        self._restart()

    def close(self) -> None:
        if self.container is not None:
            self.container.close()

    def _restart(self) -> None:
        self.close()
        self.container = self.open_container()
        self.frames = _decoded(self.container)
        self.next_index = 0

    def frame(self, index: int) -> av.VideoFrame:
        if not self.by_time:
            return self._forward(index)
        if index < self.next_index or index > self.next_index + _REACH:
            stream = _video_stream(self.container)
            self.container.seek(self.timestamps[index], stream=stream, backward=True)
            self.frames = _decoded(self.container)
        wanted = self.timestamps[index]
        for frame in self.frames:
            if frame.pts is not None and frame.pts >= wanted:
                break
        else:
            frame = None
        if frame is None or frame.pts != wanted:  # not after this key frame: from the start
            self._restart()
            frame = next(f for f in self.frames if f.pts == wanted)
        self.next_index = index + 1
        return frame

    def _forward(self, index: int) -> av.VideoFrame:
        if index < self.next_index:
            self._restart()
        while True:
            frame = next(self.frames)
            self.next_index += 1
            if self.next_index > index:
                return frame


def _video_stream(container: av.container.InputContainer) -> av.VideoStream:
    """Return the stream that players show: not the cover picture of the file."""
    best = container.streams.best("video")
    return best if best is not None else container.streams.video[0]


def _decoded(container: av.container.InputContainer) -> Iterator[av.VideoFrame]:
    """Decode from where the container stands; what is damaged is passed over."""
    stream = _video_stream(container)
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:  # the rest of the file is missing
            packet = None
        try:
            if packet is None:
                yield from stream.codec_context.decode(None)
                return
            yield from packet.decode()
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            if packet is None:
                return


class _Packets(NamedTuple):
    """What the packets of a file promise.

    ``shown``: frames to be shown; ``lost``: frames that the header names and the file lacks;
    ``plain``: every packet has a time of its own and is shown, so that ``shown`` can be relied on.
    """

    shown: int
    lost: int
    plain: bool


def _count_packets(container: av.container.InputContainer) -> _Packets:
    shown, total, plain, begun, times = 0, 0, True, False, set()
    stream = _video_stream(container)
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:
            packet, plain = None, False
        if packet is None:
            break
        if packet.size == 0:  # the mark of the end
            continue
        begun = begun or packet.is_keyframe  # a stream may begin between key frames
        if (
            not begun
            or packet.pts is None
            or packet.pts in times
            or packet.is_discard
            or packet.is_corrupt
        ):
            plain = False
        times.add(packet.pts)
        shown += begun and not packet.is_discard
        total += 1
    # other formats state a number that may be an estimate
    stated = stream.frames if "mp4" in container.format.name else 0
    return _Packets(shown, max(stated - total, 0), plain)


def display_turn(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Return how a decoded frame becomes upright: transpose, then mirror columns, then rows.

    From the display matrix of the file: x' = a x + c y, y' = b x + d y, as phones write it for
    quarter turns and, with the front camera, mirrors.
    """
    # By its key: what iterating gives (keys or data) differs between versions of PyAV.
    data = frame.side_data.get(SideData.DISPLAYMATRIX)
    if data is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].astype(np.float64)
    if abs(a) >= abs(b):
        return False, bool(a < 0), bool(d < 0)
    return True, bool(c < 0), bool(b < 0)


def turned(image: np.ndarray, turn: tuple[bool, bool, bool]) -> np.ndarray:
    """Transpose and mirror an image (H, W, 3) as ``display_turn`` says."""
    if not any(turn):
        return image
    transpose, columns, rows = turn
    if transpose:
        image = image.transpose(1, 0, 2)
    if columns:
        image = image[:, ::-1]
    if rows:
        image = image[::-1]
    return np.ascontiguousarray(image)


def _reason(error: BaseException) -> str:
    text = str(getattr(error, "strerror", None) or error or type(error).__name__)
    return " ".join(text.split())
