"""The state of an annotated video: objects, masks that a person drew, masks that were followed.

It lies in one folder: ``annotations.json`` (objects and drawn masks) and ``followed/<frame>.json``.
Every action is written before it is answered, each file in one rename, so that a kill loses
nothing. All pages of a project share one state; ``revision`` counts its changes.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..structures import InputError, Track, VideoResult
from ..structures.masks import RLE, decode_mask, encode_masks, mask_area
from .frame_masks import FrameMasks

VERSION = 1
# What undo remembers: at most so many actions, and so many megabytes of masks.
_MOST_UNDO = 200
_UNDO_MB = 64


@dataclass
class Thing:
    """One object.

    Attributes:
        name: what a person calls it.
        proposal: a system found it, and nobody has accepted it yet.
        score: of the system, 1 for what a person pointed at.
    """

    name: str
    proposal: bool = False
    score: float = 1.0


class Project:
    """One video's annotations.

    Args:
        folder: is made if it is not there; a project in it is opened.
        video: the input's name; another name than the project's is refused.
        size: (H, W) of its frames.
        length: T.

    Raises:
        InputError: the folder belongs to another video or holds something else.
    """

    def __init__(
        self, folder: str | Path, *, video: str, size: tuple[int, int], length: int
    ) -> None:
        self.folder = Path(folder)
        self.video, self.size, self.length = video, tuple(size), length
        self.revision = 0
        self.lock = threading.RLock()
        self.objects: dict[int, Thing] = {}
        self._frames: dict[int, FrameMasks] = {}
        self._undo: list[dict[str, Any]] = []
        self._redo: list[dict[str, Any]] = []
        self._next = 1
        self._open()

    # Files ---------------------------------------------------------------------------------------

    @property
    def file(self) -> Path:
        return self.folder / "annotations.json"

    def _open(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "followed").mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written ({error.strerror})") from None
        if not self.file.exists():
            self._save()
            return
        try:
            data = json.loads(self.file.read_text())
            same = (data["video"], tuple(data["size"]), data["length"])
            self._next = data["next"]
            self.objects = {int(i): Thing(**thing) for i, thing in data["objects"].items()}
            drawn = {int(t): _ints(masks) for t, masks in data["drawn"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{self.file}: no project of vis annotate ({error})") from None
        if same != (self.video, self.size, self.length):
            raise InputError(
                f"{self.folder}: belongs to {same[0]} ({same[2]} frames of {same[1][0]}x"
                f"{same[1][1]}); name another --project for {self.video}"
            )
        for t, masks in drawn.items():
            self._frames[t] = FrameMasks(drawn=masks)
        for file in sorted((self.folder / "followed").glob("[0-9]*.json")):
            t, masks = int(file.stem), _ints(json.loads(file.read_text()))
            self._frames[t] = replace(self._frame(t), followed=masks)

    def _save(self, frames: Iterable[int] = ()) -> None:
        content = {
            "version": VERSION,
            "video": self.video,
            "size": list(self.size),
            "length": self.length,
            "next": self._next,
            "objects": {i: asdict(thing) for i, thing in self.objects.items()},
            "drawn": {t: frame.drawn for t, frame in self._frames.items() if frame.drawn},
        }
        for t in frames:
            file = self.folder / "followed" / f"{t:06d}.json"
            masks = self._frame(t).followed
            _write(file, masks) if masks else file.unlink(missing_ok=True)
        _write(self.file, content)

    # Reading -------------------------------------------------------------------------------------

    def _frame(self, t: int) -> FrameMasks:
        return self._frames.get(t, FrameMasks())

    def masks(self, t: int) -> dict[int, RLE]:
        """Return the masks of frame t by id; what a person drew wins."""
        with self.lock:
            return self._frame(t).masks()

    def drawn(self, t: int) -> dict[int, np.ndarray]:
        """Return what a person drew in frame t, bool (H, W) by id."""
        with self.lock:
            masks = self._frame(t).drawn
        return {i: decode_mask(rle) for i, rle in masks.items()}

    def mask(self, t: int, object_id: int) -> np.ndarray:
        """Return one object's mask in frame t, bool (H, W)."""
        rle = self.masks(t).get(object_id)
        return np.zeros(self.size, bool) if rle is None else decode_mask(rle)

    def label_map(self, t: int) -> np.ndarray:
        """Return the ids of frame t, uint16 (H, W); better scores of proposals lie on top."""
        labels = np.zeros(self.size, np.uint16)
        with self.lock:
            masks = sorted(self.masks(t).items(), key=lambda item: self.objects[item[0]].score)
        for i, rle in masks:
            labels[decode_mask(rle)] = i
        return labels

    def state(self) -> dict[str, Any]:
        """Return what a page needs, without masks."""
        with self.lock:
            drawn: dict[int, list[int]] = {i: [] for i in self.objects}
            areas: dict[int, dict[int, int]] = {i: {} for i in self.objects}
            for t in sorted(self._frames):
                for i in self._frames[t].drawn:
                    drawn[i].append(t)
                for i, rle in self._frames[t].masks().items():
                    areas[i][t] = mask_area(rle)
            return {
                "revision": self.revision,
                "video": self.video,
                "size": list(self.size),
                "length": self.length,
                "objects": [
                    {
                        "id": i,
                        **asdict(thing),
                        "drawn": drawn[i],
                        "seen": _spans(sorted(areas[i])),
                        "doubtful": doubtful_frames(areas[i], drawn[i]),
                    }
                    for i, thing in self.objects.items()
                ],
                "undo": len(self._undo),
                "redo": len(self._redo),
            }

    def result(self) -> VideoResult:
        """Return everything as a VideoResult: a class per name."""
        with self.lock:
            names = list(dict.fromkeys(thing.name for thing in self.objects.values()))
            tracks = []
            for i, thing in self.objects.items():
                masks = [self.masks(t).get(i) for t in range(self.length)]
                if any(m is not None for m in masks):
                    tracks.append(Track(i, {names.index(thing.name): thing.score}, masks))
        return VideoResult(
            tracks,
            self.size,
            self.length,
            class_names=names,
            category_ids=list(range(1, len(names) + 1)),
            name=Path(self.video).stem,
        )

    # Actions -------------------------------------------------------------------------------------

    def add_object(self, name: str = "", *, proposal: bool = False, score: float = 1.0) -> int:
        """Make a new object and return its id."""
        with self.lock, _Action(self):
            number = self._next
            self._next += 1
            self.objects[number] = Thing(name or f"object {number}", proposal, score)
        return number

    def rename(self, object_id: int, name: str) -> None:
        """Give an object another name; a proposal is accepted by it."""
        with self.lock:
            self._known(object_id)
            with _Action(self):
                self.objects[object_id].name = name
                self.objects[object_id].proposal = False

    def accept(self, object_id: int) -> None:
        """Keep an object that a system proposed."""
        with self.lock:
            self.rename(object_id, self._known(object_id).name)

    def draw(self, t: int, object_id: int, mask: np.ndarray) -> None:
        """Set what a person says about an object in frame t; empty: it is not there.

        The pixels are taken from other objects.
        """
        with self.lock:
            self._known(object_id)
            self._place(t)
            if mask.shape != self.size:
                raise InputError(f"the mask is {mask.shape}, the frames are {self.size}")
            with _Action(self, [t]):
                frame = self._frame(t)
                for i, rle in frame.masks().items():
                    other = decode_mask(rle)
                    if i != object_id and (other & mask).any():
                        kind = "drawn" if i in frame.drawn else "followed"
                        frame = frame.put(kind, i, _rle(other & ~mask))
                self._frames[t] = frame.put("drawn", object_id, _rle(mask))

    def erase(self, t: int, object_id: int) -> None:
        """Forget everything about an object in frame t."""
        with self.lock:
            self._known(object_id)
            self._place(t)
            with _Action(self, [t]):
                self._frames[t] = self._frame(t).without(object_id)

    def delete(self, object_id: int, start: int = 0) -> None:
        """Delete an object from frame ``start`` on; altogether from frame 0."""
        with self.lock:
            self._known(object_id)
            touched = self._having(object_id, start)
            with _Action(self, touched):
                for t in touched:
                    self._frames[t] = self._frames[t].without(object_id)
                if start == 0:
                    del self.objects[object_id]

    def merge(self, object_id: int, into: int) -> None:
        """Join one object to another, which keeps its id, name and colour."""
        with self.lock:
            self._known(object_id)
            self._known(into)
            if object_id == into:
                raise InputError("an object cannot be merged into itself")
            touched = self._having(object_id)
            with _Action(self, touched):
                for t in touched:
                    frame = self._frames[t]
                    own = object_id in frame.drawn or into in frame.drawn
                    both = _rle(self.mask(t, object_id) | self.mask(t, into))
                    kind = "drawn" if own else "followed"
                    self._frames[t] = frame.without(object_id, into).put(kind, into, both)
                del self.objects[object_id]

    def split(self, object_id: int, start: int) -> int:
        """Make a new object of an object's masks from frame ``start`` on; returns its id."""
        with self.lock:
            thing = self._known(object_id)
            touched = self._having(object_id, start)
            with _Action(self, touched):
                number = self._next
                self._next += 1
                self.objects[number] = Thing(thing.name, thing.proposal, thing.score)
                for t in touched:
                    self._frames[t] = self._frames[t].renumbered(object_id, number)
        return number

    def following(self, frames: Iterable[int]) -> _Action:
        """Return the action around one run of following over ``frames``: undone as one."""
        return _Action(self, list(frames))

    def follow(self, t: int, masks: Mapping[int, np.ndarray]) -> None:
        """Set what a system says about objects in frame t, within ``following``."""
        with self.lock:
            frame = self._frame(t)
            for i, mask in masks.items():
                if i in self.objects and i not in frame.drawn:
                    there = mask.any()
                    frame = frame.put("followed", i, _rle(mask)) if there else frame.without(i)
            self._frames[t] = frame
            self._save([t])
            self.revision += 1

    def undo(self) -> bool:
        """Take the last action back; False if there is none."""
        return self._turn(self._undo, self._redo)

    def redo(self) -> bool:
        """Do the last undone action again; False if there is none."""
        return self._turn(self._redo, self._undo)

    def _turn(self, stack: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
        with self.lock:
            if not stack:
                return False
            before = stack.pop()
            other.append(self._snapshot(before["frames"]))
            self.objects = before["objects"]
            self._frames.update(before["frames"])
            self.revision += 1
            self._save(before["frames"])
            return True

    def _snapshot(self, frames: Iterable[int]) -> dict[str, Any]:
        return {
            "objects": copy.deepcopy(self.objects),
            "frames": {t: self._frame(t) for t in frames},
        }

    def _having(self, object_id: int, start: int = 0) -> list[int]:
        """Frames from ``start`` on in which an object has a mask, or is said to be absent."""
        return [t for t, f in self._frames.items() if t >= start and object_id in f.masks()]

    def _remember(self, before: dict[str, Any]) -> None:
        """Keep what was before an action for ``undo``; of too much the oldest goes."""
        self._undo = [*self._undo, before][-_MOST_UNDO:]
        self._redo.clear()
        sizes = [sum(frame.bytes for frame in b["frames"].values()) for b in self._undo]
        while len(self._undo) > 1 and sum(sizes) > _UNDO_MB * 2**20:
            del self._undo[0], sizes[0]

    def _known(self, object_id: int) -> Thing:
        if object_id not in self.objects:
            raise InputError(f"there is no object {object_id}")
        return self.objects[object_id]

    def _place(self, t: int) -> None:
        if not 0 <= t < self.length:
            raise InputError(f"there is no frame {t}; the video has {self.length}")


class _Action:
    """Around a change: remembers what was, writes what is."""

    def __init__(self, project: Project, frames: list[int] | None = None) -> None:
        self.project, self.frames = project, frames or []

    def __enter__(self) -> None:
        with self.project.lock:
            self.before = self.project._snapshot(self.frames)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        project = self.project
        with project.lock:
            project._remember(self.before)
            project.revision += 1
            project._save(self.frames)


def doubtful_frames(areas: Mapping[int, int], drawn: Iterable[int]) -> list[int]:
    """Return the frames in which an object's area jumps by more than half, or it vanishes for a
    while; frames that a person drew are beyond doubt."""
    seen = sorted(t for t, area in areas.items() if area)
    out = set()
    for before, after in itertools.pairwise(seen):
        ratio = areas[after] / areas[before]
        if after - before > 1 or not 2 / 3 <= ratio <= 1.5:
            out.add(after)
    return sorted(out - set(drawn))


def _spans(frames: list[int]) -> list[list[int]]:
    """Frames as [first, last] spans."""
    spans: list[list[int]] = []
    for t in frames:
        if spans and spans[-1][1] == t - 1:
            spans[-1][1] = t
        else:
            spans.append([t, t])
    return spans


def _rle(mask: np.ndarray) -> RLE:
    return encode_masks(mask[None])[0]


def _ints(masks: Mapping[str, RLE]) -> dict[int, RLE]:
    return {int(i): rle for i, rle in masks.items()}


def _write(file: Path, content: Any) -> None:
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    part.write_text(json.dumps(content))
    os.replace(part, file)
