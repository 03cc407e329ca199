"""Validators of the benchmarks' result files: what a server would reject or score as rubbish.

Each raises ResultFileError with one line that names the file, the entry and the remedy, and returns
how many tracks or label maps it looked at. Official tools skip much of this silently: masks in the
network's size, tracks shorter than the video, ids of another data set.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .davis import MAX_PROPOSALS
from .errors import GroundTruthError, ResultFileError
from .files.davis_layout import PROTOCOLS, find_annotations, list_sequences
from .files.label_files import frame_names, read_label_map
from .files.ytvis_files import check_result, open_results, read_ground_truth
from .files.ytvos_meta import read_meta
from .region_boundary import VOID


def validate_ytvis_results(
    results: Path | Sequence[Mapping[str, Any]], ground_truth: Path | Mapping[str, Any]
) -> int:
    """Check ``results.json`` (or its zip, or the list) of YouTube-VIS and OVIS.

    ``ground_truth`` is the split's json; its annotations are not needed. Beyond what scoring
    checks: unknown categories, counts that are not text, runs that do not fill the frame.
    """
    truth = read_ground_truth(ground_truth)
    name, entries = open_results(results)
    for index, entry in enumerate(entries):
        where = f"{name}, entry {index}"
        check_result(entry, truth, where)
        if entry["category_id"] not in truth.categories:
            raise ResultFileError(
                f"{where}: category_id {entry['category_id']} is not in {truth.name}; write the "
                "data set's own ids, not contiguous ones or another data set's"
            )
        _check_runs(entry["segmentations"], truth.videos[entry["video_id"]][:2], where)
    return len(entries)


def _check_runs(masks: Sequence[Any], size: Sequence[int], where: str) -> None:
    """Check that the runs of all masks are readable and fill the frame."""
    frames = [t for t, mask in enumerate(masks) if mask is not None]
    counts = [masks[t]["counts"] for t in frames]
    if any(not isinstance(text, str) for text in counts):
        raise ResultFileError(f"{where}: counts are bytes; decode them to text for json")
    pixels = covered_pixels(counts)
    wrong = np.flatnonzero(pixels != size[0] * size[1])
    if len(wrong):
        covered = "runs that cannot be read"
        if pixels[wrong[0]] >= 0:
            covered = f"runs for {pixels[wrong[0]]} pixels of {size[0] * size[1]}"
        raise ResultFileError(
            f"{where}, frame {frames[wrong[0]]}: counts hold {covered}; encode the mask with "
            "pycocotools"
        )


def covered_pixels(counts: Sequence[str]) -> np.ndarray:
    """Return how many pixels each compressed RLE covers, int64 (len(counts),), -1 if unreadable.

    The compressed form writes a run in groups of five bits, low ones first, with bit 5 as "goes
    on" and sign extension; from the fourth on, runs are differences to the one before the last. So
    number m of n counts in the sum as often as there are runs m, m + 2, ... below n.
    """
    lengths = np.array([len(text) for text in counts], dtype=np.int64)
    result = np.full(len(counts), -1, dtype=np.int64)
    text = "".join(counts)
    if not text or not text.isascii():
        good = [i for i, own in enumerate(counts) if own and own.isascii()]
        if good:
            result[good] = covered_pixels([counts[i] for i in good])
        return result
    groups = np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    ends = np.cumsum(lengths)
    owner = np.repeat(np.arange(len(counts)), lengths)
    final = (groups & 32) == 0
    bad = np.zeros(len(counts), dtype=bool)
    bad[owner[(groups < 0) | (groups > 63)]] = True
    filled = lengths > 0
    bad[~filled] = True
    bad[filled] |= ~final[ends[filled] - 1]
    final[ends[filled] - 1] = True  # a cut-off number must not run into the next mask
    stops = np.flatnonzero(final)
    starts = np.concatenate([[0], stops[:-1] + 1])
    place = np.arange(len(groups)) - np.repeat(starts, stops - starts + 1)
    place = np.minimum(place, 11)  # 60 bits; longer numbers are nonsense anyway
    numbers = np.add.reduceat((groups & 31) << (5 * place), starts)
    negative = (groups[stops] & 16) > 0
    numbers = numbers - (negative.astype(np.int64) << (5 * (place[stops] + 1)))
    number_owner = owner[stops]
    amount = np.bincount(number_owner, minlength=len(counts))
    first = np.cumsum(amount) - amount
    m = np.arange(len(numbers)) - first[number_owner]
    times = np.where(m == 0, 1, (amount[number_owner] - 1 - m) // 2 + 1)
    np.add.at(total := np.zeros(len(counts), dtype=np.int64), number_owner, numbers * times)
    return np.where(bad, -1, total)


class _Tree:
    """``<video>/<frame>.png`` in a folder or in a zip."""

    def __init__(self, place: Path, *, inner: str | None = None) -> None:
        self.place = Path(place)
        self.archive = None
        self.files: dict[str, set[str]] = {}
        if self.place.is_dir():
            if inner is not None and (self.place / inner).is_dir():
                self.place = self.place / inner
            for file in self.place.glob("*/*.png"):
                self.files.setdefault(file.parent.name, set()).add(file.name)
        elif zipfile.is_zipfile(self.place):
            self.archive = zipfile.ZipFile(self.place)
            self._list_archive(inner)
        else:
            raise ResultFileError(f"{self.place}: neither a folder nor a zip of label maps")
        if not self.files:
            raise ResultFileError(f"{self.place}: holds no <video>/<frame>.png")

    def _list_archive(self, inner: str | None) -> None:
        names = [n for n in self.archive.namelist() if n.endswith(".png")]
        self.prefix = f"{inner}/" if inner and all(n.startswith(f"{inner}/") for n in names) else ""
        for name in names:
            parts = name[len(self.prefix) :].split("/")
            if len(parts) != 2:
                raise ResultFileError(
                    f"{self.place}, {name}: the zip must hold the video folders directly at its "
                    "root; zip their contents, not the folder around them"
                )
            self.files.setdefault(parts[0], set()).add(parts[1])

    def where(self, video: str, name: str = "") -> str:
        return str(self.place / video / name)

    def read(self, video: str, name: str) -> np.ndarray:
        if self.archive is None:
            return read_label_map(self.place / video / name)
        with self.archive.open(f"{self.prefix}{video}/{name}") as stream:
            return read_label_map(stream, name=self.where(video, name))


def validate_davis_results(
    results: Path,
    ground_truth: Path,
    *,
    protocol: str,
    sequences: Sequence[str] | None = None,
    frames: Mapping[str, Sequence[str]] | None = None,
) -> int:
    """Check a folder or zip of DAVIS label maps: every frame of every sequence, sizes and ids.

    ``ground_truth`` is the DAVIS root or a folder of annotations of which frame 0 suffices, as in
    test sets; then ``frames`` gives each sequence's frame names.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol {protocol!r} is none of {', '.join(PROTOCOLS)}")
    annotations, root = find_annotations(Path(ground_truth), protocol)
    tree = _Tree(results)
    if sequences is None and tree.archive is None:
        sequences = list_sequences(annotations, root, tree.place, protocol)
    checked = 0
    for sequence in sorted(tree.files) if sequences is None else sequences:
        known = frame_names(annotations / sequence)
        first = read_label_map(annotations / sequence / known[0], error=GroundTruthError)
        highest = int(np.where(first == VOID, 0, first).max())
        limits = {"2016": (VOID, ""), "unsup": (MAX_PROPOSALS, "proposals are allowed")}
        limit, meaning = limits.get(protocol, (highest, "objects are in the first annotation"))
        names = known if frames is None else [f"{Path(n).stem}.png" for n in frames[sequence]]
        _check_names(tree, sequence, names)
        for name in names:
            found = tree.read(sequence, name)
            _check_shape(found, first.shape, tree.where(sequence, name))
            if int(found.max()) > limit:
                raise ResultFileError(
                    f"{tree.where(sequence, name)}: id {int(found.max())}, but only {limit} "
                    f"{meaning}; ids must run from 1 to that number"
                )
            checked += 1
    return checked


def validate_ytvos_results(
    results: Path,
    meta: Path | Mapping[str, Any],
    *,
    annotations: Path | None = None,
) -> int:
    """Check a folder or zip of YouTube-VOS label maps against the split's ``meta.json``.

    Every frame of the union of the objects' frames must be there, hold known ids only, and no
    object before its first frame. ``annotations``, the split's folder of first masks, gives the
    sizes; without it all maps of a video must be equally large.
    """
    tree = _Tree(results, inner="Annotations")
    checked = 0
    for video, content in read_meta(meta).items():
        names = [f"{frame}.png" for frame in content.frames]
        _check_names(tree, video, names)
        size = None
        if annotations is not None:
            folder = Path(annotations) / video
            first = frame_names(folder)[0]
            size = read_label_map(folder / first, error=GroundTruthError).shape
        starts = {item.object_id: item.frames[0] for item in content.objects}
        for frame, name in zip(content.frames, names):
            found = tree.read(video, name)
            size = size or found.shape
            _check_shape(found, size, tree.where(video, name))
            for identity in np.flatnonzero(np.bincount(found.ravel(), minlength=256)[1:]) + 1:
                if identity not in starts:
                    raise ResultFileError(
                        f"{tree.where(video, name)}: id {identity} is none of the video's ids "
                        f"{', '.join(map(str, starts))}; write ids as meta.json gives them"
                    )
                if frame < starts[identity]:
                    raise ResultFileError(
                        f"{tree.where(video, name)}: object {identity} begins in frame "
                        f"{starts[identity]}; leave it out before"
                    )
            checked += 1
    return checked


def _check_names(tree: _Tree, video: str, names: Sequence[str]) -> None:
    """Raise ResultFileError unless a video has exactly these files."""
    present = tree.files.get(video)
    if present is None:
        raise ResultFileError(f"{tree.where(video)}: this video is missing; write its label maps")
    missing = [name for name in names if name not in present]
    if missing:
        raise ResultFileError(
            f"{tree.where(video, missing[0])}: missing, as are {len(missing) - 1} more of "
            f"{len(names)} frames; write one PNG per frame"
        )
    extra = sorted(present.difference(names))
    if extra:
        raise ResultFileError(
            f"{tree.where(video, extra[0])}: not a frame of this video, {len(names)} are expected "
            f"and {len(present)} are there; keep the input's frame names"
        )


def _check_shape(found: np.ndarray, size: Sequence[int], where: str) -> None:
    if found.shape != tuple(size):
        raise ResultFileError(
            f"{where}: {found.shape[1]}x{found.shape[0]} pixels instead of {size[1]}x{size[0]}; "
            "resize the scores to the video's size before taking ids"
        )
