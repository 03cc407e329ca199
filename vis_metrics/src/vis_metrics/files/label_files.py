"""Label maps: single-channel images whose pixel values are object ids, one folder a video.

Letters: T frames, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import InputError, ResultFileError
from .png import PngError, decode_ids

HIGHEST_ID = 255


class LabelMaps(Protocol):
    """The label maps of one video, read when asked for."""

    def __len__(self) -> int: ...

    def read(self, t: int) -> np.ndarray:
        """Return frame ``t`` as uint8 (H, W)."""
        ...

    def where(self, t: int) -> str:
        """Name frame ``t`` for a message."""
        ...


class LabelFolder:
    """Label maps of a folder of images.

    Args:
        folder: of one video.
        names: file names of the frames, in order.
        error: exception class for unreadable files.
    """

    def __init__(self, folder: Path, names: Sequence[str], error: type[InputError]) -> None:
        self.folder = folder
        self.names = list(names)
        self.error = error

    def __len__(self) -> int:
        return len(self.names)

    def read(self, t: int) -> np.ndarray:
        return read_label_map(f"{self.folder}/{self.names[t]}", error=self.error)

    def where(self, t: int) -> str:
        return str(Path(self.folder) / self.names[t])


class LabelArray:
    """Label maps in memory, (T, H, W) of an integer type with values 0..255."""

    def __init__(self, maps: np.ndarray, name: str, error: type[InputError]) -> None:
        maps = np.asarray(maps)
        if maps.ndim != 3:
            raise error(f"{name}: label maps must be (frames, height, width), got {maps.shape}")
        if maps.size and not (int(maps.min()) >= 0 and int(maps.max()) <= HIGHEST_ID):
            raise error(f"{name}: label maps must hold ids from 0 to {HIGHEST_ID}")
        self.maps = maps
        self.name = name

    def __len__(self) -> int:
        return len(self.maps)

    def read(self, t: int) -> np.ndarray:
        return np.ascontiguousarray(self.maps[t], dtype=np.uint8)

    def where(self, t: int) -> str:
        return f"{self.name}, frame {t}"


def read_label_map(file: Path | str, *, error: type[InputError] = ResultFileError) -> np.ndarray:
    """Return the label map of an image file as uint8 (H, W).

    Raises ``error`` if the file is missing, cannot be decoded, has more than one channel, or holds
    ids above 255.
    """
    try:
        with open(file, "rb") as stream:
            content = stream.read()
    except FileNotFoundError:
        raise error(f"{file}: this frame's PNG is missing; write one for every frame") from None
    except OSError as reason:
        raise error(f"{file}: cannot be read ({reason.strerror})") from None
    return decode_label_map(content, str(file), error=error)


def decode_label_map(
    content: bytes, name: str, *, error: type[InputError] = ResultFileError
) -> np.ndarray:
    """Return the label map of an image's bytes; ``name`` stands for it in messages."""
    try:
        pixels = decode_ids(content) if name.lower().endswith(".png") else _decode_other(content)
    except PngError as reason:
        if str(reason).startswith("mode"):
            raise error(
                f"{name}: a PNG of {reason}, colours instead of ids; save the ids as a "
                "single-channel PNG (mode P or L)"
            ) from None
        raise error(f"{name}: not a readable PNG ({reason}); write it again") from None
    if pixels.dtype != np.uint8:
        highest, lowest = pixels.max(initial=0), pixels.min(initial=0)
        if highest > HIGHEST_ID or lowest < 0 or np.any(pixels != pixels.astype(np.int64)):
            raise error(
                f"{name}: {pixels.dtype} values from {lowest} to {highest}; ids run from 1 to "
                f"{HIGHEST_ID}, renumber them"
            )
        pixels = pixels.astype(np.uint8)
    return pixels


def _decode_other(content: bytes) -> np.ndarray:
    """Decode tif and bmp."""
    import cv2

    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise PngError("no image in it")
    if pixels.ndim == 2:
        return pixels
    try:  # a palette may hold ids; only an imaging library gives its indices
        import io

        from PIL import Image

        with Image.open(io.BytesIO(content)) as image:
            if image.mode in ("P", "L", "1"):
                return np.array(image, dtype=np.uint8)
    except (ImportError, OSError):
        pass
    raise PngError("mode RGB")


def check_same_size(gt: np.ndarray, result: np.ndarray, gt_name: str, result_name: str) -> None:
    """Raise ResultFileError unless both label maps have the same height and width."""
    if gt.shape != result.shape:
        (h, w), (height, width) = result.shape, gt.shape
        raise ResultFileError(
            f"{result_name}: {w}x{h} pixels, the ground truth {gt_name} has {width}x{height}; "
            "resize the scores to the video's size before taking ids"
        )
