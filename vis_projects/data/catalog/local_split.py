"""Local validation sets: a fixed part of a training set whose ground truth is at hand.

Which videos go there depends on the seed and on each video's name alone, so that the same split
comes out everywhere, also if a few videos are missing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...structures import InputError
from ..formats.json_files import entries, read_json
from ..formats.video_folders import read_sequence_list
from .benchmarks import load_youtube_vos_task
from .registration import dataset_root
from .ytvis_places import load_known_ytvis, ytvis_places


def held_out(names: Sequence[str], count: int, *, seed: int = 0) -> set[str]:
    """Return the ``count`` names whose seeded hash is smallest.

    Raises:
        InputError: not fewer than there are names.
    """
    if not 0 < count < len(set(names)):
        raise InputError(f"{count} of {len(set(names))} videos cannot be held out: choose fewer")

    return set(sorted(set(names), key=lambda name: _hash(name, seed))[:count])


def _hash(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def folds_of(names: Sequence[str], count: int, *, seed: int = 0) -> list[set[str]]:
    """Return ``count`` parts of nearly equal size: the names by their seeded hash, cut.

    The one place that says which video is in which fold.

    Raises:
        InputError: fewer names than folds, or fewer than two folds.
    """
    ordered = sorted(set(names), key=lambda name: _hash(name, seed))
    if not 2 <= count <= len(ordered):
        raise InputError(
            f"{len(ordered)} videos cannot be cut into {count} folds: choose 2 or more"
        )
    cuts = [len(ordered) * k // count for k in range(count + 1)]
    return [set(ordered[a:b]) for a, b in pairwise(cuts)]


def split_folds(name: str, count: int, *, seed: int = 0) -> list[Path]:
    """Write ``local_fold0.json``, ``local_fold1.json``, ... of a training set; return the files.

    They are read as ``<name>_local_fold0`` and so on: train on one, look at the other (MSN's pairs
    of masks come from a detector that has not seen the videos).

    Args:
        name: ``ytvis_2019``, ``ytvis_2021`` or ``ovis``.

    Raises:
        InputError: the set is unknown, missing or broken, or has too few videos.
    """
    if name not in ("ytvis_2019", "ytvis_2021", "ovis"):
        raise InputError(f"{name!r} cannot be cut into folds: ytvis_2019, ytvis_2021 or ovis")
    names = _ytvis_names(name)[1]
    folds = folds_of(list(names.values()), count, seed=seed)
    return _write_parts(name, {f"fold{k}": fold for k, fold in enumerate(folds)})


def split_dataset(
    name: str,
    *,
    count: int | None = None,
    seed: int = 0,
    listed: str | Path | None = None,
    out: str | Path | None = None,
) -> list[Path]:
    """Write ``local_train`` and ``local_val`` of a training set; return the files.

    Args:
        name: ``ytvis_2019``, ``ytvis_2021``, ``ovis``, ``youtube_vos_2018`` or
            ``youtube_vos_2019``.
        count: videos to hold out; a tenth by default.
        listed: a file with the names of the videos to hold out, one a line, instead.
        out: folder of the files, where the data set's own cannot be written. A json there is used
            as ``own_vis:JSON:IMAGES``.

    Raises:
        InputError: the set is unknown, missing or broken; ``listed`` names a video that it lacks.
    """
    if listed is not None and count is not None:
        raise InputError("--videos and --list both say which videos are held out: give one")
    if name in ("ytvis_2019", "ytvis_2021", "ovis"):
        names = list(_ytvis_names(name)[1].values())
        chosen = _chosen(names, count, seed, listed)
        return _write_parts(name, {"train": set(names) - chosen, "val": chosen}, out)
    if name in ("youtube_vos_2018", "youtube_vos_2019"):
        return _split_youtube_vos(name, count, seed, listed, out)
    raise InputError(
        f"{name!r} cannot be split: ytvis_2019, ytvis_2021, ovis, youtube_vos_2018 or "
        "youtube_vos_2019"
    )


def _chosen(
    names: Sequence[str], count: int | None, seed: int, listed: str | Path | None
) -> set[str]:
    """Return the names that are held out: those of a list, or by their hashes."""
    if listed is None:
        return held_out(names, count or max(len(names) // 10, 1), seed=seed)
    chosen = set(read_sequence_list(Path(listed)))
    unknown = sorted(chosen - set(names))
    if unknown:
        raise InputError(f"{listed}: {unknown[0]} is no video of this training set")
    if chosen == set(names):
        raise InputError(f"{listed}: names every video; nothing would be left to train on")
    return chosen


def _ytvis_names(name: str) -> tuple[dict[str, Any], dict[int, str]]:
    """Return a training set's json and the names of its videos by id."""
    load_known_ytvis(f"{name}_train")  # says what is wrong with the set, if anything
    source = next(file for file, _ in ytvis_places(f"{name}_train") if file.is_file())
    data = read_json(source)
    videos = entries(data, "videos", source)
    return data, {v["id"]: str(Path(v["file_names"][0]).parent) for v in videos}


def _write_parts(
    name: str, parts: Mapping[str, set[str]], out: str | Path | None = None
) -> list[Path]:
    """Write the json of each part of a training set, named by the videos in it."""
    data, names = _ytvis_names(name)
    files = []
    for part, chosen in parts.items():
        ids = {i for i, n in names.items() if n in chosen}
        kept = {
            **data,
            "videos": [v for v in data["videos"] if v["id"] in ids],
            "annotations": [a for a in data["annotations"] or [] if a["video_id"] in ids],
        }
        folder = dataset_root() / name if out is None else Path(out)
        files.append(folder / f"local_{part}.json")
        _write(files[-1], json.dumps(kept))
    return files


def _split_youtube_vos(
    name: str,
    count: int | None,
    seed: int,
    listed: str | Path | None,
    out: str | Path | None,
) -> list[Path]:
    videos, _ = load_youtube_vos_task(int(name[-4:]), "train")
    names = [v["name"] for v in videos]
    chosen = _chosen(names, count, seed, listed)
    files = []
    for part in ("train", "val"):
        kept = sorted(n for n in names if (n in chosen) == (part == "val"))
        folder = dataset_root() / name / "train" if out is None else Path(out)
        files.append(folder / f"local_{part}.txt")
        _write(files[-1], "\n".join(kept) + "\n")
    return files


def _write(file: Path, text: str) -> None:
    """Write a file so that an interruption never leaves half of it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(file.name + ".part")
        part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{file}: cannot be written ({error.strerror}); give another folder with --out"
        ) from None
    os.replace(part, file)
