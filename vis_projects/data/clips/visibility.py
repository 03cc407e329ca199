"""Which object is seen in which frame: what the frame samplers ask about a video.

Letters: T frames, O objects that are not crowds.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..formats.label_maps import LabelMapAnnotations


class VideoIndex:
    """Tables over a video's frames and objects, made when they are first asked for.

    Sets with a json know everything at once. Label images are read only by those who ask for
    ``areas``; until then every labelled frame is assumed to show an object (the data set draws
    again if not).
    """

    def __init__(self, video: dict[str, Any]) -> None:
        self.video = video
        self.length: int = video["length"]
        self.annotations = video.get("annotations")
        objects = video.get("objects") or ()
        self.ids: list[int] = [o["id"] for o in objects]
        self.classes: list[int] = [o["category_id"] for o in objects]
        self._areas: np.ndarray | None = None

    @property
    def lazy(self) -> bool:
        """True if masks have to be read to know what is visible."""
        return isinstance(self.annotations, LabelMapAnnotations)

    @property
    def wide(self) -> bool:
        return self.video["width"] > self.video["height"]

    def usable_frames(self) -> list[int]:
        """Return the frames that show an object; labelled frames if the set is lazy."""
        if self.annotations is None:
            return []
        if self.lazy:
            return [t for t in range(self.length) if self.annotations.has_labels(t)]
        return [t for t in range(self.length) if any(_counts(a) for a in self.annotations[t])]

    def areas(self) -> np.ndarray:
        """Return the pixels of each object in each frame, int64 (T, O); 0 where it is absent.

        A json without areas gives the area of the box.
        """
        if self._areas is None:
            self._areas = np.zeros((self.length, len(self.ids)), np.int64)
            if self.lazy:
                columns = {i: k for k, i in enumerate(self.annotations.ids)}
                self._areas[:] = self.annotations.areas()[:, [columns[i] for i in self.ids]]
            elif self.annotations is not None:
                column = {i: k for k, i in enumerate(self.ids)}
                for t, objects in enumerate(self.annotations):
                    for a in objects:
                        if _counts(a):
                            self._areas[t, column[a["id"]]] = a.get("area") or _box_area(a)
        return self._areas

    def visible(self) -> np.ndarray:
        """Return where each object is seen, bool (T, O)."""
        return self.areas() > 0

    def frame_classes(self, t: int) -> set[int]:
        """Return the classes in frame t; all classes of the video if the set is lazy."""
        if self.lazy or self.annotations is None:
            return set(self.classes)
        return {a["category_id"] for a in self.annotations[t] if _counts(a)}


def _counts(annotation: dict[str, Any]) -> bool:
    """Crowds and boxes without area are not used."""
    return not annotation.get("iscrowd", 0) and _box_area(annotation) > 0


def _box_area(annotation: dict[str, Any]) -> float:
    a, b, c, d = annotation["bbox"]
    w, h = (c - a, d - b) if annotation["bbox_mode"] == 0 else (c, d)
    return float(max(w, 0) * max(h, 0))
