"""Local validation sets: a fixed part of a training set whose ground truth is at hand.

Which videos go there depends on the seed and on each video's name alone, so that the same split
comes out everywhere, also if a few videos are missing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from ...structures import InputError
from ..formats.json_files import entries, read_json
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

    def key(name: str) -> str:
        return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()

    return set(sorted(set(names), key=key)[:count])


def split_dataset(name: str, *, count: int | None = None, seed: int = 0) -> list[Path]:
    """Write ``local_train`` and ``local_val`` of a training set; return the files.

    Args:
        name: ``ytvis_2019``, ``ytvis_2021``, ``ovis``, ``youtube_vos_2018`` or
        ``youtube_vos_2019``.
        count: videos to hold out; a tenth by default.

    Raises:
        InputError: the set is unknown, missing or broken.
    """
    if name in ("ytvis_2019", "ytvis_2021", "ovis"):
        return _split_ytvis(name, count, seed)
    if name in ("youtube_vos_2018", "youtube_vos_2019"):
        return _split_youtube_vos(name, count, seed)
    raise InputError(
        f"{name!r} cannot be split: ytvis_2019, ytvis_2021, ovis, youtube_vos_2018 or "
        "youtube_vos_2019"
    )


def _split_ytvis(name: str, count: int | None, seed: int) -> list[Path]:
    load_known_ytvis(f"{name}_train")  # says what is wrong with the set, if anything
    source = next(file for file, _ in ytvis_places(f"{name}_train") if file.is_file())
    data = read_json(source)
    videos = entries(data, "videos", source)
    names = {v["id"]: str(Path(v["file_names"][0]).parent) for v in videos}
    chosen = held_out(list(names.values()), count or max(len(videos) // 10, 1), seed=seed)
    files = []
    for part in ("train", "val"):
        ids = {i for i, n in names.items() if (n in chosen) == (part == "val")}
        kept = {
            **data,
            "videos": [v for v in videos if v["id"] in ids],
            "annotations": [a for a in data["annotations"] or [] if a["video_id"] in ids],
        }
        files.append(dataset_root() / name / f"local_{part}.json")
        _write(files[-1], json.dumps(kept))
    return files


def _split_youtube_vos(name: str, count: int | None, seed: int) -> list[Path]:
    videos, _ = load_youtube_vos_task(int(name[-4:]), "train")
    names = [v["name"] for v in videos]
    chosen = held_out(names, count or max(len(names) // 10, 1), seed=seed)
    files = []
    for part in ("train", "val"):
        kept = sorted(n for n in names if (n in chosen) == (part == "val"))
        files.append(dataset_root() / name / "train" / f"local_{part}.txt")
        _write(files[-1], "\n".join(kept) + "\n")
    return files


def _write(file: Path, text: str) -> None:
    """Write a file so that an interruption never leaves half of it."""
    part = file.with_name(file.name + ".part")
    part.write_text(text)
    os.replace(part, file)
