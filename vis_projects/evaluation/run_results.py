"""What ``vis run`` left, in the place of a model: an evaluation that segments nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from vis_metrics.files.names import is_hidden, safe_name

from ..structures import InputError, VideoResult

MANIFEST = "manifest*.jsonl"  # of a run over many videos, and of its shards


class RunResults(nn.Module):
    """Gives for every test item the result that a run over one or many videos has for it.

    Videos are found by their names or the names of their folders, categories by their names where
    the data set knows them all, else by their order.

    Args:
        folder: ``--output`` of ``vis run``.
        class_names: of the data set.

    Raises:
        InputError: there is no result in the folder.
    """

    def __init__(self, folder: str | Path, class_names: Sequence[str] | None = None) -> None:
        super().__init__()
        self.folder = Path(folder).expanduser()
        self.class_names = list(class_names or ())
        self._places = _places(self.folder)
        self._reasons = _reasons(self.folder)

    def forward(self, items: Sequence[Mapping[str, Any]]) -> list[VideoResult]:
        """Return the results of test items.

        Raises:
            InputError: a video that the run lacks or failed at, or whose size or length differ.
        """
        return [self._result(str(item.get("name", item["video_id"])), item) for item in items]

    def _result(self, name: str, item: Mapping[str, Any]) -> VideoResult:
        names = (name, safe_name(name), Path(name).name)
        failed = next((self._reasons[n] for n in names if n in self._reasons), None)
        if failed is not None:
            raise InputError(f"failed in {self.folder}: {failed}")
        place = next((self._places[n] for n in names if n in self._places), None)
        if place is None:
            raise InputError(f"{self.folder} holds no result of {name}: run it there")
        result = VideoResult.load(place)
        wanted = (int(item["height"]), int(item["width"])), int(item["length"])
        if (tuple(result.size), result.length) != wanted:
            (rows, columns), length = wanted
            raise InputError(
                f"{place}: {result.length} frames of {result.size[0]}x{result.size[1]}, the data "
                f"set has {length} of {rows}x{columns} (rows x columns)"
            )
        return self._in_classes_of_the_data(result)

    def _in_classes_of_the_data(self, result: VideoResult) -> VideoResult:
        own = list(result.class_names or ())
        if not own or own == self.class_names or not set(own) <= set(self.class_names):
            return result
        number = [self.class_names.index(name) for name in own]
        tracks = [
            replace(track, category_scores={number[c]: s for c, s in track.category_scores.items()})
            for track in result.tracks
        ]
        return replace(result, tracks=tracks)


def _places(folder: Path) -> dict[str, Path]:
    """Return the folders of videos by the names that they have."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the --output of vis run")
    children = [p for p in folder.iterdir() if p.is_dir() and not is_hidden(p.name)]
    found = [p for p in [folder, *sorted(children)] if (p / "results.json").is_file()]
    if not found:
        raise InputError(
            f"{folder}: holds neither results.json nor folders of videos with one; give the "
            "--output of vis run"
        )
    places: dict[str, Path] = {}
    for place in found:
        places.setdefault(place.absolute().name, place)
    for place in found:
        places.setdefault(_name(place), place)
    return places


def _name(place: Path) -> str:
    try:
        name = json.loads((place / "video.json").read_text(encoding="utf-8")).get("name")
    except (OSError, ValueError, AttributeError):
        name = None
    return str(name or place.name)


def _reasons(folder: Path) -> dict[str, str]:
    """Return why videos failed, by name; the last line of a video counts."""
    reasons: dict[str, str] = {}
    for file in sorted(folder.glob(MANIFEST)):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # a killed run left it half written
                continue
            if isinstance(row, dict) and row.get("state") == "failed":
                reasons[str(row.get("name"))] = str(row.get("error"))
            elif isinstance(row, dict):
                reasons.pop(str(row.get("name")), None)
    return reasons
