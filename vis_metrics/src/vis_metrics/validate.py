"""Validators of the benchmarks' result files: what a server would reject or score as rubbish.

Each raises ResultFileError with one line that names the file, the entry and the remedy, and returns
how many tracks or label maps it looked at. Official tools skip much of this silently: masks in the
network's size, tracks shorter than the video, ids of another data set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .davis_protocols import MAX_PROPOSALS, UNSUPERVISED
from .errors import GroundTruthError, ResultFileError
from .files.davis_layout import find_annotations, known_protocol, list_sequences
from .files.label_tree import LabelTree, find_results
from .files.names import is_sparse, natural_order
from .files.ytvis_files import check_result, open_results, read_ground_truth
from .files.ytvos_meta import read_meta
from .region_boundary import VOID, ids_of


def validate_ytvis_results(
    results: Path | Sequence[Mapping[str, Any]], ground_truth: Path | Mapping[str, Any]
) -> int:
    """Check ``results.json`` (or its zip, or the list) of YouTube-VIS and OVIS.

    ``ground_truth`` is the split's json; its annotations are not needed. Beyond what scoring
    checks: unknown categories, counts that are not text, runs that do not fill the frame.
    """
    truth = read_ground_truth(ground_truth)
    name, entries = open_results(results, truth)
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
    protocol = known_protocol(protocol)
    annotations, root = find_annotations(Path(ground_truth), protocol)
    if sequences is None and Path(results).is_dir():
        tree, sequences = list_sequences(annotations, root, Path(results), protocol)
    else:
        tree = _tree(results, sequences or ())
    checked = 0
    for sequence in tree.videos() if sequences is None else sequences:
        known = list(annotations.require_frames(sequence))
        first = annotations.read(sequence, known[0])
        limit, allowed = _highest_id(annotations, sequence, known, protocol)
        names = known if frames is None else [Path(n).stem for n in frames[sequence]]
        _check_names(tree, sequence, names, surplus=frames is not None)
        for name in names:
            found = tree.read(sequence, name)
            _check_shape(found, first.shape, tree.where(sequence, name))
            if int(found.max()) > limit:
                raise ResultFileError(
                    f"{tree.where(sequence, name)}: id {int(found.max())}, but only {allowed}; "
                    "ids must run from 1 to that number"
                )
            checked += 1
    return checked


def _highest_id(
    annotations: LabelTree, sequence: str, names: Sequence[str], protocol: str
) -> tuple[int, str]:
    """Return the highest id that results may hold, and what it means."""
    if protocol == "2016":
        return VOID, ""
    if protocol in UNSUPERVISED:
        return MAX_PROPOSALS, f"{MAX_PROPOSALS} proposals are allowed"
    highest, void = 0, False
    for name in names:
        ids = ids_of(annotations.read(sequence, name))
        highest = max([highest, *(k for k in ids if k < VOID)])
        void |= VOID in ids
    if highest == 0 and void:
        return VOID, ""  # one object in the encoding of 2016
    return highest, f"{highest} objects are in the annotations"


def _tree(results: Path, known: Sequence[str], *, inner: str = "") -> LabelTree:
    """Open results; a zip must be as a server wants it, with ``inner`` around its videos."""
    if Path(results).is_dir():
        return find_results(Path(results), known)[0]
    tree = LabelTree(Path(results), error=ResultFileError, strict=True, inner=inner)
    if not tree.videos():
        raise ResultFileError(f"{results}: holds no <video>/<frame>.png")
    return tree


def validate_ytvos_results(
    results: Path,
    meta: Path | Mapping[str, Any],
    *,
    annotations: Path | None = None,
    chosen: Sequence[str] | None = None,
) -> int:
    """Check a folder or zip of YouTube-VOS label maps against the split's ``meta.json``.

    Every frame of the union of the objects' frames must be there, hold known ids only, and no
    object before its first frame. ``annotations``, the split's folder of first masks, gives the
    sizes; without it all maps of a video must be equally large. ``chosen`` names the videos if
    not all of the meta file are there.
    """
    videos = read_meta(meta, chosen)
    tree = _tree(results, list(videos), inner="Annotations")
    sizes = None if annotations is None else LabelTree(annotations, error=GroundTruthError)
    checked = 0
    for video, content in videos.items():
        _check_names(tree, video, content.frames)
        size = None
        if sizes is not None:
            size = sizes.read(video, next(iter(sizes.require_frames(video)))).shape
        starts = {item.object_id: item.frames[0] for item in content.objects}
        for frame in content.frames:
            found = tree.read(video, frame)
            size = size or found.shape
            _check_shape(found, size, tree.where(video, frame))
            for identity in np.flatnonzero(np.bincount(found.ravel(), minlength=256)[1:]) + 1:
                if identity not in starts:
                    raise ResultFileError(
                        f"{tree.where(video, frame)}: id {identity} is none of the video's ids "
                        f"{', '.join(map(str, starts))}; write ids as meta.json gives them"
                    )
                if frame < starts[identity]:
                    raise ResultFileError(
                        f"{tree.where(video, frame)}: object {identity} begins in frame "
                        f"{starts[identity]}; leave it out before"
                    )
            checked += 1
    return checked


def _check_names(
    tree: LabelTree, video: str, names: Sequence[str], *, surplus: bool = False
) -> None:
    """Raise ResultFileError unless a video has these frames.

    More frames are well with ``surplus``, and where some lie between those that are named, as they
    do when not every frame is annotated.
    """
    present = tree.frames(video)
    if not present:
        raise ResultFileError(f"{tree.place / video}: this video is missing; write its label maps")
    missing = [name for name in names if name not in present]
    if missing:
        raise ResultFileError(
            f"{tree.where(video, missing[0])}: missing, as are {len(missing) - 1} more of "
            f"{len(names)} frames; write one PNG per frame"
        )
    extra = natural_order(set(present).difference(names))
    if extra and not surplus and not is_sparse(names, present):
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
