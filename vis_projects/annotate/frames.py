"""Frames of the video as JPEGs by index, at most 1080 rows, with a bounded cache."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

import cv2
import numpy as np

from ..structures import FrameSource, InputError
from ..video import open_source

PROXY_ROWS = 1080
_CACHE_MB = 64
_QUALITY = 85


class FrameStore:
    """Random access to a video, for pages and for systems.

    Args:
        path: a video file or a folder of frames.

    Raises:
        InputError: it cannot be read, or has no known length.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.source: FrameSource = open_source(self.path, image_format="BGR")
        if not self.source.seekable or not self.source.length:
            raise InputError(f"{path}: a video whose frames can be counted is needed")
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._cached = 0

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the video."""
        return self.source.size

    @property
    def length(self) -> int:
        return int(self.source.length or 0)

    @property
    def proxy_size(self) -> tuple[int, int]:
        """(H, W) of the JPEGs."""
        rows, columns = self.size
        scale = min(1.0, PROXY_ROWS / rows)
        return round(rows * scale), round(columns * scale)

    def image(self, index: int) -> np.ndarray:
        """Return a frame, uint8 BGR (H, W, 3)."""
        if not 0 <= index < self.length:
            raise InputError(f"there is no frame {index}; the video has {self.length}")
        with self._lock:
            return self.source[index].array()

    def jpeg(self, index: int) -> bytes:
        """Return a frame as JPEG in proxy size."""
        with self._lock:
            if index in self._cache:
                self._cache.move_to_end(index)
                return self._cache[index]
        image = self.image(index)
        rows, columns = self.proxy_size
        if image.shape[0] != rows:
            image = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
        with self._lock:
            self._cached += len(data) - len(self._cache.get(index, b""))  # two may have asked
            self._cache[index] = data
            while self._cached > _CACHE_MB * 1e6 and len(self._cache) > 1:
                self._cached -= len(self._cache.popitem(last=False)[1])
        return data
