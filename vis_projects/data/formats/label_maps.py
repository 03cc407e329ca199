"""Object masks stored as label images: one PNG per frame, the value of a pixel is an object's id.

Letters: T frames of H rows and W columns. 0 is background; 255 is void in DAVIS 2017 and 2019 and
the object itself in DAVIS 2016, which is why a reader has to be told the encoding.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from ...structures import InputError, read_foreground, read_ids
from ...structures.mask_images import VOID


def read_label_map(file: str | Path, *, binary: bool = False) -> np.ndarray:
    """Read a label image as a uint8 array (H, W).

    Args:
        binary: DAVIS-2016 style, any value above 0 is object 1; colour images are accepted.

    Raises:
        InputError: missing or damaged file, a colour image where ids are expected, ids above 255.
    """
    if binary:
        return read_foreground(Path(file))
    labels = read_ids(Path(file))
    if labels.dtype != np.uint8:
        raise InputError(
            f"{file}: id {int(labels.max())}; ids of objects are 1 to 254, number the objects anew"
        )
    return labels


def box_of_mask(mask: np.ndarray) -> list[float]:
    """Return the tight box [x0, y0, x1, y1] of a non-empty mask (H, W); ends exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


class LabelMapAnnotations(Sequence):
    """The ``annotations`` of a video whose masks are label maps, made frame by frame on demand.

    Behaves as the list of T lists of objects of the video contract; ``segmentation`` is then a
    uint8 array (H, W). A frame without label map has no objects.

    Args:
        categories: contiguous category of each object id; ids that are not in it get category 0.
    """

    def __init__(self, length: int, categories: Mapping[int, int]) -> None:
        self.length = length
        self.categories = dict(categories)
        self.dropped: frozenset[int] = frozenset()  # ids that count as background
        self._areas: np.ndarray | None = None

    def remapped(self, table: Mapping[int, int]) -> LabelMapAnnotations:
        """Return a copy with other categories; objects whose category has none are dropped."""
        out = copy(self)
        out._areas = None
        gone = {i for i, c in self.categories.items() if c not in table}
        out.dropped = self.dropped | gone
        out.categories = {i: table[c] for i, c in self.categories.items() if c in table}
        return out

    @abstractmethod
    def label_map(self, t: int) -> np.ndarray | None:
        """Return the label map (H, W) of frame t, void included, or None if there is none."""

    def has_labels(self, t: int) -> bool:
        """Tell whether frame t is annotated at all."""
        return True

    @property
    def ids(self) -> list[int]:
        return sorted(self.categories)

    def areas(self) -> np.ndarray:
        """Return the visible pixels of each object in each frame, int64 (T, len(ids)); cached."""
        if self._areas is None:
            columns = self.ids
            areas = np.zeros((self.length, len(columns)), np.int64)
            for t in range(self.length):
                labels = self.label_map(t)
                if labels is not None:
                    areas[t] = np.bincount(labels.ravel(), minlength=256)[columns]
            self._areas = areas
        return self._areas

    def ids_in(self, labels: np.ndarray) -> np.ndarray:
        """Return the ids that a label map shows, without void and dropped ones."""
        ids = np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[1:VOID]) + 1
        return ids[~np.isin(ids, list(self.dropped))] if self.dropped else ids

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, t: int) -> list[dict[str, Any]]:
        if not -self.length <= t < self.length:
            raise IndexError(f"frame {t} of a video of {self.length} frames")
        labels = self.label_map(t % self.length)
        if labels is None:
            return []
        objects = []
        for i in self.ids_in(labels):
            mask = (labels == i).astype(np.uint8)
            objects.append(
                {
                    "id": int(i),
                    "category_id": self.categories.get(int(i), 0),
                    "bbox": box_of_mask(mask),
                    "bbox_mode": BoxMode.XYXY_ABS,
                    "segmentation": mask,
                    "iscrowd": 0,
                }
            )
        return objects


class LabelFiles(LabelMapAnnotations):
    """Label maps in files, one path or None per frame.

    Raises:
        InputError: while reading: a damaged file, or one of another size than the frames.
    """

    def __init__(
        self,
        files: Sequence[str | Path | None],
        categories: Mapping[int, int],
        *,
        size: tuple[int, int],
        binary: bool = False,
    ) -> None:
        super().__init__(len(files), categories)
        self.files = [None if f is None else str(f) for f in files]
        self.size = size
        self.binary = binary

    def has_labels(self, t: int) -> bool:
        return self.files[t] is not None

    def label_map(self, t: int) -> np.ndarray | None:
        if self.files[t] is None:
            return None
        labels = read_label_map(self.files[t], binary=self.binary)
        if labels.shape != tuple(self.size):
            turned = labels.shape == tuple(self.size)[::-1]
            raise InputError(
                f"{self.files[t]} is {labels.shape[0]}x{labels.shape[1]} but its video is "
                f"{self.size[0]}x{self.size[1]} (rows x columns): masks need the frames' size"
                + (", and lie as the frames do (upright, by EXIF)" if turned else "")
            )
        return labels


class GivenMasks(Mapping):
    """The masks handed to a semi-supervised system: ``{frame index: uint8 label map (H, W)}``.

    Label maps are read when they are asked for; void pixels and ids that do not start in the frame
    are background.

    Args:
        starts: the ids that start in each frame, ``{frame index: ids}``.
    """

    def __init__(
        self, annotations: LabelMapAnnotations, starts: Mapping[int, Sequence[int]]
    ) -> None:
        self.annotations = annotations
        self.starts = {int(t): sorted(int(i) for i in ids) for t, ids in sorted(starts.items())}

    def __getitem__(self, t: int) -> np.ndarray:
        ids = self.starts[t]
        labels = self.annotations.label_map(t)
        keep = np.zeros(256, np.uint8)
        keep[ids] = ids
        return keep[labels]

    def __contains__(self, t: object) -> bool:
        return t in self.starts

    def __iter__(self) -> Iterator[int]:
        return iter(self.starts)

    def __len__(self) -> int:
        return len(self.starts)
