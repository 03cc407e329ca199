"""Frames that a program hands over: arrays, tensors, PIL images, paths, captures, generators.

Every form becomes uint8 (H, W, 3) in the model's channel order, or is refused by name: a float, a
grey or a sideways (3, H, W) array is never segmented in silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from ..structures import ArraySource, FrameSource, InputError, IterableSource, read_image


def frame_array(
    frame: Any, what: str = "frame", *, rgb: bool = False, image_format: str = "BGR"
) -> np.ndarray:
    """Return a frame as a contiguous uint8 array (H, W, 3) in ``image_format``.

    Args:
        frame: uint8 array or tensor (H, W, 3), uint8 tensor (3, H, W), PIL image, or path of one.
        what: its name in error messages, such as ``"frame 3"``.
        rgb: arrays and tensors are RGB; BGR otherwise, as OpenCV and Detectron2 give them. PIL
            images and files know their order.

    Raises:
        InputError: another type, number of dimensions, channels or number format.
    """
    if isinstance(frame, (str, Path)):
        array, rgb = read_image(frame), False
    elif isinstance(frame, Image.Image):
        array, rgb = np.asarray(frame.convert("RGB")), True
    else:
        array = _pixels(frame, what)
    if rgb != (image_format == "RGB"):
        array = array[..., ::-1]
    return np.ascontiguousarray(array)


def _pixels(frame: Any, what: str) -> np.ndarray:
    if isinstance(frame, torch.Tensor):
        frame = frame.detach().cpu()
        if frame.dim() == 3 and frame.shape[0] == 3 and frame.shape[-1] != 3:
            frame = frame.permute(1, 2, 0)
        frame = frame.numpy()
    if not isinstance(frame, np.ndarray):
        raise InputError(
            f"{what} is a {type(frame).__name__}: give uint8 arrays (H, W, 3), PIL images or paths"
        )
    shape = "x".join(map(str, frame.shape))
    if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        kind = {1: "grey", 2: "grey with alpha", 4: "with alpha"}
        channels = frame.shape[2] if frame.ndim == 3 else 1
        grey = kind.get(channels, "of another layout") if frame.ndim in (2, 3) else "no image"
        raise InputError(
            f"{what} is {shape} ({grey}): frames are (rows, columns, 3); convert it, for "
            "example with cv2.cvtColor, and state the order with rgb="
        )
    if frame.dtype != np.uint8:
        raise InputError(
            f"{what} is {frame.dtype}: frames are uint8, 0 to 255; scale and convert it first"
        )
    return frame


def array_source(
    frames: Any, *, rgb: bool = False, image_format: str = "BGR"
) -> FrameSource | None:
    """Make a source of frames in memory or of an iterator; None if ``frames`` is neither.

    Takes (T, H, W, 3) arrays and tensors, (T, 3, H, W) tensors, sequences and iterators of whatever
    ``frame_array`` takes, and ``cv2.VideoCapture``.
    """
    order = {"rgb": rgb, "image_format": image_format}
    if isinstance(frames, (np.ndarray, torch.Tensor)):
        if frames.ndim != 4:
            raise InputError(
                f"frames is {'x'.join(map(str, frames.shape))}: a video in one array is "
                "(frames, rows, columns, 3)"
            )
        return _ListSource(frames, **order)
    if isinstance(frames, Image.Image):
        return _ListSource([frames], **order)
    if isinstance(frames, Sequence):
        return _ListSource(frames, **order)
    if isinstance(frames, cv2.VideoCapture):
        return _StreamSource(_shots(frames), image_format=image_format)
    if isinstance(frames, Iterable):
        return _StreamSource(iter(frames), **order)
    return None


def _shots(capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
    while True:
        good, image = capture.read()
        if not good:
            return
        yield image


class _ListSource(ArraySource):
    """A sequence of frames, converted when they are read."""

    def __init__(self, frames: Any, *, rgb: bool = False, image_format: str = "BGR") -> None:
        if len(frames) == 0:
            raise InputError("frames is empty: a video needs at least one frame")
        self.rgb = rgb
        files = isinstance(frames, Sequence) and all(isinstance(f, (str, Path)) for f in frames)
        names = [Path(f).stem for f in frames] if files else None
        if names is not None and len(set(names)) < len(names):
            names = None
        super().__init__(frames, image_format=image_format, names=names)
        self._size = self._array(0).shape[:2]
        if not files:  # all problems of frames in memory are told before the first is segmented
            for index in range(len(frames)):
                self._checked(index)

    def _array(self, index: int) -> np.ndarray:
        return frame_array(
            self.frames[index], f"frame {index}", rgb=self.rgb, image_format=self.image_format
        )

    def _checked(self, index: int) -> None:
        frame = self.frames[index]
        if isinstance(frame, Image.Image):
            size = frame.size[::-1]
        else:
            size = _pixels(frame, f"frame {index}").shape[:2]
        self._same_size(index, size)

    def _same_size(self, index: int, size: tuple[int, ...]) -> None:
        if tuple(size) != tuple(self.size):
            raise InputError(
                f"frame {index} is {size[0]}x{size[1]} but the video is "
                f"{self.size[0]}x{self.size[1]} (rows x columns): all frames need one size"
            )

    def read(self, index: int) -> np.ndarray:
        array = self._array(index)
        self._same_size(index, array.shape[:2])
        return array


class _StreamSource(IterableSource):
    """An iterator of frames, converted as they pass."""

    def __init__(
        self, frames: Iterator[Any], *, rgb: bool = False, image_format: str = "BGR"
    ) -> None:
        converted = (
            frame_array(frame, f"frame {index}", rgb=rgb, image_format=image_format)
            for index, frame in enumerate(frames)
        )
        super().__init__(converted, image_format=image_format)
