"""What a system says about a frame and about a whole video.

Conventions: ids are positive, frame indices start at 0, categories are contiguous (0-based)
indices of the model, scores lie in [0, 1]. T frames of H x W pixels. Where masks overlap, the
better score lies on top; of equal scores the later one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances

from . import exports
from .masks import RLE, decode_mask, decode_masks, mask_area


@dataclass(frozen=True)
class VideoInfo:
    """What is known when a stream begins.

    Attributes:
        size: (H, W) of the original frames and of all results.
        length: T, or None for an endless stream.
        task: ``"vis"``, ``"uvos"`` or ``"vos"``.
        video_id: the data set's own id, if any.
        keep_results: False for endless streams: only per-frame results, an empty VideoResult.
    """

    size: tuple[int, int]
    length: int | None = None
    task: str = "vis"
    video_id: Any = None
    keep_results: bool = True


@dataclass
class FrameResult:
    """The objects of one frame.

    Attributes:
        instances: fields ``pred_masks`` (N, H, W) bool, ``scores`` (N,), ``pred_classes`` (N,)
            and ``pred_ids`` (N,) int64, on the model's device; ``pred_boxes`` where the system
            has boxes. Rows come in any order.
        index: the frame's index.
        provisional: True if ids, classes or masks may still change in the VideoResult.
    """

    instances: Instances
    index: int = 0
    provisional: bool = False

    @classmethod
    def build(
        cls,
        masks: torch.Tensor,
        ids: torch.Tensor,
        *,
        scores: torch.Tensor | None = None,
        classes: torch.Tensor | None = None,
        index: int = 0,
        provisional: bool = False,
    ) -> FrameResult:
        """Make a result of masks (N, H, W) and ids (N,); scores default to 1, classes to 0."""
        n = len(masks)
        instances = Instances((int(masks.shape[-2]), int(masks.shape[-1])))
        instances.pred_masks = masks
        instances.scores = torch.ones(n, device=masks.device) if scores is None else scores
        instances.pred_classes = (
            torch.zeros(n, dtype=torch.int64, device=masks.device) if classes is None else classes
        )
        instances.pred_ids = ids
        return cls(instances, index, provisional)

    def __len__(self) -> int:
        return len(self.instances)

    def label_map(self) -> torch.Tensor:
        """Return the ids as an int64 label map (H, W), better scores over worse ones."""
        masks, ids = self.instances.pred_masks, self.instances.pred_ids
        if len(masks) == 0:
            return torch.zeros(self.instances.image_size, dtype=torch.int64, device=masks.device)
        order = self.instances.scores.argsort(stable=True)
        masks, ids = masks[order], ids[order]
        rank = torch.arange(1, len(masks) + 1, dtype=torch.int16, device=masks.device)
        top = (masks.to(torch.int16) * rank[:, None, None]).amax(0)
        return torch.cat([ids.new_zeros(1), ids])[top.to(torch.int32)]

    def numpy(self) -> dict[str, np.ndarray]:
        """Return ``masks`` (N, H, W) bool, ``ids``, ``classes`` int64 and ``scores`` float32 (N,),
        and ``boxes`` (N, 4) XYXY in pixels where the system has boxes, as arrays on the CPU."""
        fields = {
            "masks": self.instances.pred_masks,
            "ids": self.instances.pred_ids,
            "classes": self.instances.pred_classes,
            "scores": self.instances.scores,
        }
        if self.instances.has("pred_boxes"):
            fields["boxes"] = self.instances.pred_boxes.tensor
        return {name: value.detach().cpu().numpy() for name, value in fields.items()}


@dataclass
class Track:
    """One object through a video.

    Attributes:
        id: positive.
        category_scores: ``{category: score}``; one tube may carry several categories.
        masks: one RLE or None per frame.
    """

    id: int
    category_scores: dict[int, float]
    masks: list[RLE | None]

    @property
    def category(self) -> int:
        """The best-scoring category."""
        return max(self.category_scores, key=self.category_scores.__getitem__)

    @property
    def score(self) -> float:
        """The best score."""
        return max(self.category_scores.values())

    @property
    def visible_frames(self) -> int:
        return sum(mask is not None for mask in self.masks)


@dataclass
class VideoResult:
    """The tracks of a video.

    Attributes:
        tracks: the tracks, in any order.
        size: (H, W).
        length: T.
        class_names: names of the categories, by contiguous index; None where unknown.
        category_ids: the data set's own ids of the categories, likewise.
        frame_names: stems of the frames' files, T of them; None: ``00000``, ``00001``, ...
        name: of the video.
    """

    tracks: list[Track] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)
    length: int = 0
    class_names: Sequence[str] | None = None
    category_ids: Sequence[int] | None = None
    frame_names: Sequence[str] | None = None
    name: str = ""

    def frame_name(self, index: int) -> str:
        """Return the stem for the files of a frame."""
        return self.frame_names[index] if self.frame_names is not None else f"{index:05d}"

    def category_id(self, category: int) -> int:
        """Return the data set's id of a category; counted from 1 where it is unknown."""
        known = self.category_ids is not None and category < len(self.category_ids)
        return int(self.category_ids[category]) if known else category + 1

    def class_name(self, category: int) -> str:
        """Return the name of a category; its id where the name is unknown."""
        known = self.class_names is not None and category < len(self.class_names)
        return str(self.class_names[category]) if known else str(self.category_id(category))

    def painted(self, min_score: float = 0.0) -> list[Track]:
        """Return the tracks that score at least ``min_score`` in paint order, the best last."""
        return sorted((t for t in self.tracks if t.score >= min_score), key=lambda t: t.score)

    def first(self, length: int) -> VideoResult:
        """Return the result of the first ``length`` frames; tracks that are unseen there go."""
        cut = [Track(t.id, t.category_scores, t.masks[:length]) for t in self.tracks]
        names = None if self.frame_names is None else list(self.frame_names[:length])
        return replace(
            self,
            tracks=[t for t in cut if t.masks and t.visible_frames],
            length=min(length, self.length),
            frame_names=names,
        )

    def label_maps(
        self, max_ids: int | None = None, *, min_score: float = 0.0
    ) -> Iterator[np.ndarray]:
        """Yield one uint8 (uint16 above 255 ids) label map (H, W) per frame; overlaps are resolved.

        Args:
            max_ids: keep at most this many tracks, those seen in most frames (ties: the larger
                area), and number them 1.. in the order of their ids if any id exceeds it.
            min_score: leave out tracks that score less.
        """
        tracks = self.painted(min_score)
        numbers = self._numbers([t for t in self.tracks if t.score >= min_score], max_ids)
        tracks = [t for t in tracks if t.id in numbers]
        dtype = np.uint8 if max(numbers.values(), default=0) < 256 else np.uint16
        for t in range(self.length):
            labels = np.zeros(self.size, dtype)
            for track in tracks:
                if track.masks[t] is not None:
                    labels[decode_mask(track.masks[t])] = numbers[track.id]
            yield labels

    def _numbers(self, tracks: list[Track], max_ids: int | None) -> dict[int, int]:
        if max_ids is not None and len(tracks) > max_ids:

            def presence(track: Track) -> tuple[int, int]:
                return track.visible_frames, sum(mask_area(m) for m in track.masks)

            tracks = sorted(tracks, key=presence, reverse=True)[:max_ids]
        ids = sorted(t.id for t in tracks)
        if max_ids is not None and ids and ids[-1] > max_ids:
            return {i: n for n, i in enumerate(ids, 1)}
        return {i: i for i in ids}

    def frames(self) -> Iterator[FrameResult]:
        """Yield the result frame by frame; a track's score is its best category's."""
        for t in range(self.length):
            seen = [track for track in self.tracks if track.masks[t] is not None]
            masks = decode_masks([track.masks[t] for track in seen], self.size)
            yield FrameResult.build(
                torch.from_numpy(masks),
                torch.tensor([track.id for track in seen], dtype=torch.int64),
                scores=torch.tensor([track.score for track in seen], dtype=torch.float32),
                classes=torch.tensor([track.category for track in seen], dtype=torch.int64),
                index=t,
            )

    def foreground(self, threshold: float = 0.0) -> Iterator[np.ndarray]:
        """Yield the union of the tracks that score at least ``threshold``, bool (H, W)."""
        for labels in self.label_maps(min_score=threshold):
            yield labels > 0

    # Formats of other programs: ``structures.exports`` -------------------------------------------

    def to_ytvis(self, video_id: int = 1, *, min_score: float = 0.0) -> list[dict[str, Any]]:
        """Return the YouTube-VIS result list: one entry per track and category."""
        return exports.to_ytvis(self, video_id, min_score=min_score)

    def to_coco(self, *, min_score: float = 0.0) -> dict[str, Any]:
        """Return a COCO data set: an image per frame, an annotation per mask, with ``track_id``."""
        return exports.to_coco(self, min_score=min_score)

    def to_davis(self, folder: str | Path, *, min_score: float = 0.0) -> list[Path]:
        """Write indexed PNGs, one per frame (16 bit above 255 ids), and return their paths."""
        return exports.to_davis(self, Path(folder), min_score=min_score)

    def to_mot(self, *, min_score: float = 0.0) -> str:
        """Return MOTChallenge lines: frame (from 1), id, left, top, width, height, score, category
        id, visibility (always 1)."""
        return exports.to_mot(self, min_score=min_score)

    def to_labels(self, *, min_score: float = 0.0) -> np.ndarray:
        """Return all label maps (T, H, W), uint8, or uint16 above 255 ids."""
        maps = list(self.label_maps(min_score=min_score))
        return np.stack(maps) if maps else np.zeros((0, *self.size), np.uint8)

    def to_supervision(self, *, min_score: float = 0.0) -> list[Any]:
        """Return one ``supervision.Detections`` per frame (the package must be installed)."""
        return exports.to_supervision(self, min_score=min_score)

    def save(self, path: str | Path) -> Path:
        """Write everything to one json file (``.json.gz``: compressed); ``load`` reads it."""
        return exports.save(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> VideoResult:
        """Read what ``save`` wrote, or the output folder of ``vis run``.

        Raises:
            InputError: no such file, or a file of another kind.
        """
        data = exports.load(Path(path))
        data["tracks"] = [Track(**track) for track in data["tracks"]]
        return cls(**data)
