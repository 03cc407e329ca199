"""Label maps on disk: single-channel PNGs whose pixel values are object ids, one folder a video.

Letters: T frames, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import GroundTruthError, InputError, ResultFileError


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
    """Label maps of a folder of PNGs.

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
        return read_label_map(self.folder / self.names[t], error=self.error)

    def where(self, t: int) -> str:
        return str(self.folder / self.names[t])


class LabelArray:
    """Label maps in memory, (T, H, W) of an integer type with values 0..255."""

    def __init__(self, maps: np.ndarray, name: str, error: type[InputError]) -> None:
        maps = np.asarray(maps)
        if maps.ndim != 3:
            raise error(f"{name}: label maps must be (frames, height, width), got {maps.shape}")
        if maps.size and not (int(maps.min()) >= 0 and int(maps.max()) <= 255):
            raise error(f"{name}: label maps must hold ids from 0 to 255")
        self.maps = maps
        self.name = name

    def __len__(self) -> int:
        return len(self.maps)

    def read(self, t: int) -> np.ndarray:
        return np.ascontiguousarray(self.maps[t], dtype=np.uint8)

    def where(self, t: int) -> str:
        return f"{self.name}, frame {t}"


def read_label_map(
    file: Path | BinaryIO, *, error: type[InputError] = ResultFileError, name: str | None = None
) -> np.ndarray:
    """Return a label map PNG as uint8 (H, W).

    ``name`` names an open file in messages. Raises ``error`` if the file is missing, cannot be
    decoded, or has more than one channel.
    """
    name = name or str(file)
    try:
        with Image.open(file) as image:
            if image.mode not in ("P", "L", "1"):
                raise error(
                    f"{name}: a PNG of mode {image.mode}, colours instead of ids; save the ids as "
                    "a single-channel PNG (mode P or L)"
                )
            return np.array(image, dtype=np.uint8)
    except error:
        raise
    except FileNotFoundError:
        raise error(f"{name}: this frame's PNG is missing; write one for every frame") from None
    except (OSError, SyntaxError, ValueError) as reason:
        reason = "no image in it" if isinstance(reason, UnidentifiedImageError) else reason
        raise error(f"{name}: not a readable PNG ({reason}); write it again") from None


def frame_names(folder: Path, *, error: type[InputError] = GroundTruthError) -> list[str]:
    """Return the sorted PNG names of a video's folder; raises ``error`` if there are none."""
    if not folder.is_dir():
        raise error(f"{folder}: no such folder; every video needs one, named after it")
    names = sorted(file.name for file in folder.iterdir() if file.suffix.lower() == ".png")
    if not names:
        raise error(f"{folder}: holds no PNG; every frame needs one")
    return names


def video_folders(folder: Path, *, error: type[InputError]) -> list[str]:
    """Return the sorted names of the sub-folders that hold PNGs; hidden ones are left out."""
    if not folder.is_dir():
        raise error(f"{folder}: no such folder")
    return sorted(
        child.name
        for child in folder.iterdir()
        if child.is_dir() and not child.name.startswith(".") and any(child.glob("*.png"))
    )


def check_same_size(gt: np.ndarray, result: np.ndarray, gt_name: str, result_name: str) -> None:
    """Raise ResultFileError unless both label maps have the same height and width."""
    if gt.shape != result.shape:
        (h, w), (height, width) = result.shape, gt.shape
        raise ResultFileError(
            f"{result_name}: {w}x{h} pixels, the ground truth {gt_name} has {width}x{height}; "
            "resize the scores to the video's size before taking ids"
        )
