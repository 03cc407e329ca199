"""``manifest.jsonl``: one line a video, with what became of it.

While a run works, lines are appended, and the last of a video counts; when it begins and when it
ends the file is rewritten with one line each, in the order of the jobs. A line that a killed
process left half written is ignored. What differs from run to run, times and machines, is in
``times.jsonl`` beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

DONE, FAILED, RUNNING = "done", "failed", "running"


@dataclass(frozen=True)
class Entry:
    """What became of a video.

    Attributes:
        name, input: of the job.
        state: ``done``, ``failed`` or ``running``.
        frames: segmented and written.
        error: why it failed, one line.
        config, weights, source: digests of the config, the weights' bytes, and the input (names,
            sizes and times of its files).
    """

    name: str
    input: str
    state: str
    frames: int = 0
    error: str = ""
    config: str = ""
    weights: str = ""
    source: str = ""

    @property
    def made_of(self) -> tuple[str, str, str]:
        return self.config, self.weights, self.source


def read_entries(file: Path) -> dict[str, Entry]:
    """Return the last line of every video, by name; none where there is no such file."""
    entries: dict[str, Entry] = {}
    known = {f.name for f in fields(Entry)}
    for row in _rows(file):
        if isinstance(row, dict) and {"name", "input", "state"} <= row.keys():
            entries[row["name"]] = Entry(**{k: v for k, v in row.items() if k in known})
    return entries


def _rows(file: Path) -> Iterable[Any]:
    try:
        lines = file.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            continue


class Manifest:
    """The manifest of one run, or of one shard of it.

    Args:
        folder: of the outputs.
        shard: (number from 0, count); (0, 1) is the whole.
    """

    def __init__(self, folder: Path, shard: tuple[int, int] = (0, 1)) -> None:
        self.folder = folder
        number, count = shard
        part = "" if count == 1 else f".{number + 1}-of-{count}"
        self.file = folder / f"manifest{part}.jsonl"
        self.times = folder / f"times{part}.jsonl"
        self.entries: dict[str, Entry] = {}

    def load(self) -> None:
        """Read what earlier runs left, whole ones and shards alike."""
        for file in sorted(self.folder.glob("manifest*.jsonl")):
            for name, entry in read_entries(file).items():
                mine = self.entries.get(name)
                if mine is None or mine.state != DONE:
                    self.entries[name] = entry
        self.entries.update(read_entries(self.file))

    def add(self, entry: Entry, times: dict[str, Any] | None = None) -> None:
        """Append what became of a video."""
        self.entries[entry.name] = entry
        _append(self.file, asdict(entry))
        if times is not None:
            _append(self.times, {"name": entry.name, **times})

    def compact(self, names: Sequence[str]) -> None:
        """Rewrite the file with one line a video, in this order."""
        rows = [asdict(self.entries[name]) for name in names if name in self.entries]
        _replace(self.file, rows)

    def join_shards(self, names: Sequence[str]) -> bool:
        """Write ``manifest.jsonl`` of all shards once every video has its line."""
        self.load()
        if any(self.entries.get(n) is None or self.entries[n].state == RUNNING for n in names):
            return False
        _replace(self.folder / "manifest.jsonl", [asdict(self.entries[n]) for n in names])
        return True


def _append(file: Path, row: dict[str, Any]) -> None:
    """One write of one line: another process or a kill leaves it whole or cut, never mixed."""
    line = (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "surrogateescape")
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line)
    finally:
        os.close(handle)


def _replace(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with open(part, "w", encoding="utf-8", errors="surrogateescape") as out:
            out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
