"""Videos as sequences of frames that are decoded when they are asked for.

Letters: H rows, W columns of the original frames; T frames.
"""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from .errors import InputError
from .image_files import IMAGE_SUFFIXES, image_size, list_images, read_image

__all__ = [
    "IMAGE_SUFFIXES",
    "ArraySource",
    "FolderSource",
    "Frame",
    "FrameSource",
    "IterableSource",
    "ahead",
    "list_images",
    "read_image",
]


@dataclass(frozen=True)
class Frame:
    """One frame of a video.

    Attributes:
        image: uint8 tensor (3, H, W) in the source's channel order; usually a view of H x W x 3.
        index: position in the video, from 0.
        name: stem for output files, such as ``"00000"``.
        output_size: (rows, columns) of the masks wanted; None for the image's own size. Differs
            from the image only if somebody else resized it already (Detectron2's predictor).
        time: seconds from the first frame, None where the source does not know it.
    """

    image: torch.Tensor
    index: int = 0
    name: str = ""
    output_size: tuple[int, int] | None = None
    time: float | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(rows, columns) in which results are wanted."""
        return self.output_size or (int(self.image.shape[-2]), int(self.image.shape[-1]))

    @property
    def resized(self) -> bool:
        """True if the image was resized before: networks then leave it alone."""
        return self.output_size is not None

    def array(self) -> np.ndarray:
        """Return the image as a uint8 array (H, W, 3) in the same channel order."""
        return self.image.permute(1, 2, 0).cpu().numpy()


class FrameSource(ABC):
    """A video whose frames are read on demand.

    A source opens its file lazily, can be pickled while closed, and decodes ahead in one thread
    while it is iterated. ``image_format`` is ``"BGR"`` or ``"RGB"``.
    """

    seekable = True
    pixel_aspect = Fraction(1)  # width of a pixel by its height, as players show it
    shortfall = ""  # what could not be read, once the video was read to its end

    def __init__(self, *, image_format: str = "BGR", decode_ahead: int = 4) -> None:
        if image_format not in ("BGR", "RGB"):
            raise InputError(f"image format {image_format!r} is unknown: use 'BGR' or 'RGB'")
        self.image_format = image_format
        self.decode_ahead = decode_ahead

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """(H, W)."""

    @property
    @abstractmethod
    def length(self) -> int | None:
        """Number of frames, None where it is unknown (a camera)."""

    @abstractmethod
    def read(self, index: int) -> np.ndarray:
        """Decode frame ``index`` to a uint8 array (H, W, 3) in ``image_format``."""

    def read_all(self) -> Iterator[np.ndarray]:
        """Decode all frames in order; sequential formats override this."""
        assert self.length is not None
        for index in range(self.length):
            yield self.read(index)

    def name(self, index: int) -> str:
        """Return the stem for the output files of a frame."""
        return f"{index:05d}"

    @property
    def fps(self) -> float | None:
        """Frames per second where the file states it."""
        return None

    def time(self, index: int) -> float | None:
        """Seconds from the first frame to this one, where the file states them."""
        return None

    def settle(self) -> None:  # noqa: B027  most sources know their length
        """Make ``length`` exact, whatever it costs: before frames are asked for by index."""

    def close(self) -> None:  # noqa: B027  most sources hold nothing open
        """Release decoders; the source opens again when it is used again."""

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError("the length of this video is unknown: iterate it")
        return self.length

    def __getitem__(self, index: int) -> Frame:
        if not self.seekable:
            raise TypeError(f"{type(self).__name__} cannot seek: iterate it, or spool it first")
        if self.length is not None and not -self.length <= index < self.length:
            raise IndexError(f"frame {index} of a video of {self.length} frames")
        if index < 0:
            index += len(self)
        return self._frame(self.read(index), index)

    def _frame(self, array: np.ndarray, index: int) -> Frame:
        image = torch.from_numpy(array).permute(2, 0, 1)
        return Frame(image, index, self.name(index), time=self.time(index))

    def __iter__(self) -> Iterator[Frame]:
        frames = (self._frame(array, i) for i, array in enumerate(self.read_all()))
        return ahead(frames, self.decode_ahead) if self.decode_ahead > 0 else frames


def ahead(frames: Iterator[Frame], depth: int) -> Iterator[Frame]:
    """Iterate ``frames`` in a thread that stays at most ``depth`` items ahead.

    An exception of the producer is raised at its place in the sequence; leaving the loop early
    ends the thread.
    """
    waiting: queue.Queue = queue.Queue(maxsize=depth)
    stop = threading.Event()
    end = object()

    def put(item: object) -> bool:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            for frame in frames:
                if not put((frame, None)):
                    return
            put((end, None))
        except BaseException as error:
            put((end, error))

    thread = threading.Thread(target=produce, name="decode-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stop.set()
        thread.join()


class FolderSource(FrameSource):
    """Frames stored as image files, one per frame.

    Args:
        files: the image files in order, or a folder whose images are taken in natural
            order (``list_images``).
        names: stems of the output files; by default the files' own.
        exclude: files in the folder that are no frames, such as a mask.

    Raises:
        InputError: no such folder, no image in it; while reading: an image that is damaged or of
            another size than the first (the message names the file).
    """

    def __init__(
        self,
        files: str | Path | Sequence[str | Path],
        *,
        image_format: str = "BGR",
        names: Sequence[str] | None = None,
        size: tuple[int, int] | None = None,
        exclude: Sequence[str | Path] = (),
        decode_ahead: int = 4,
    ) -> None:
        super().__init__(image_format=image_format, decode_ahead=decode_ahead)
        if isinstance(files, (str, Path)):
            files = list_images(Path(files), exclude=[Path(f) for f in exclude])
        self.files = [str(f) for f in files]
        if not self.files:
            raise InputError("a video without frames: the list of image files is empty")
        self.names = list(names) if names is not None else [Path(f).stem for f in self.files]
        self._size = size

    @property
    def size(self) -> tuple[int, int]:
        if self._size is None:
            self._size = image_size(self.files[0])
        return self._size

    @property
    def length(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.names[index]

    def read(self, index: int) -> np.ndarray:
        image = read_image(self.files[index])
        if image.shape[:2] != tuple(self.size):
            h, w = self.size
            raise InputError(
                f"{self.files[index]} is {image.shape[0]}x{image.shape[1]} but its video is "
                f"{h}x{w} (rows x columns): frames need one size, that of their annotations"
            )
        return image if self.image_format == "BGR" else np.ascontiguousarray(image[..., ::-1])


class ArraySource(FrameSource):
    """Frames in memory: a sequence of uint8 arrays (H, W, 3) in ``image_format``."""

    def __init__(
        self,
        frames: Sequence[np.ndarray] | np.ndarray,
        *,
        image_format: str = "BGR",
        names: Sequence[str] | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(image_format=image_format, decode_ahead=0)
        self.frames = frames
        self.names = names
        self._size = size
        if len(frames) == 0 and size is None:
            raise InputError("a video without frames needs its size")

    @property
    def size(self) -> tuple[int, int]:
        if self._size is None:
            self._size = tuple(int(n) for n in self.frames[0].shape[:2])
        return self._size

    @property
    def length(self) -> int:
        return len(self.frames)

    def name(self, index: int) -> str:
        return self.names[index] if self.names is not None else super().name(index)

    def read(self, index: int) -> np.ndarray:
        frame = np.asarray(self.frames[index])
        if frame.dtype != np.uint8 or frame.shape != (*self.size, 3):
            raise InputError(
                f"frame {index} is {frame.dtype} {frame.shape}: frames must be uint8 arrays of "
                f"shape ({self.size[0]}, {self.size[1]}, 3)"
            )
        return frame


class IterableSource(FrameSource):
    """A stream that can be read once, such as a camera or a generator of uint8 arrays (H, W, 3)."""

    seekable = False

    def __init__(
        self, frames: Iterator[np.ndarray], *, image_format: str = "BGR", decode_ahead: int = 2
    ) -> None:
        super().__init__(image_format=image_format, decode_ahead=decode_ahead)
        self._frames = iter(frames)
        self._first: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        if self._first is None:
            self._first = next(self._frames, None)
            if self._first is None:
                raise InputError("the stream ended before its first frame")
            self._size = tuple(int(n) for n in self._first.shape[:2])
        return self._size

    @property
    def length(self) -> None:
        return None

    def read(self, index: int) -> np.ndarray:
        raise TypeError("a stream cannot seek")

    def read_all(self) -> Iterator[np.ndarray]:
        _ = self.size
        yield self._first
        yield from self._frames
