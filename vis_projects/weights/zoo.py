"""Names of weights: ``zoo://NAME`` stands for a shipped file or a published address.

``zoo.json`` lists what others publish. A file that ships with the package lies in ``shipped/``
as ``NAME.safetensors`` (or ``.pth``) beside ``NAME.json`` with the same fields, ``file`` in place
of ``url``: what it was trained on and under which terms is said there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

from ..structures import InputError
from .reading import local_copy

SCHEME = "zoo://"
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class ZooEntry:
    """One named set of weights.

    Attributes:
        name: after ``zoo://``.
        system: whose weights these are (crossvis, frtm, ...).
        about: what they are and what they were trained on, in one line.
        config: shipped config that they run with or start the training of, "" if any.
        url: published address; "" where none is known.
        file: shipped file's name.
        by_hand: how to get them where no program can download them; "" otherwise.
        sha256: of the file, "" if not known.
        licence: terms of the weights, as their authors state them.
        source: where it is said.
        megabytes: rounded size, 0 if not known.
    """

    name: str
    system: str
    about: str
    config: str = ""
    url: str = ""
    file: str = ""
    by_hand: str = ""
    sha256: str = ""
    licence: str = ""
    source: str = ""
    megabytes: float = 0.0


@lru_cache(maxsize=1)
def zoo_entries() -> dict[str, ZooEntry]:
    """Return all entries by name, the shipped ones first."""
    cards = [json.loads(f.read_text()) for f in sorted((_HERE / "shipped").glob("*.json"))]
    cards += json.loads((_HERE / "zoo.json").read_text())
    known = {f.name for f in fields(ZooEntry)}
    entries = [ZooEntry(**{k: v for k, v in card.items() if k in known}) for card in cards]
    return {entry.name: entry for entry in entries}


def zoo_entry(name: str) -> ZooEntry:
    """Return one entry, by its name with or without ``zoo://``.

    Raises:
        InputError: no such name; close ones are listed.
    """
    name = name.removeprefix(SCHEME)
    entries = zoo_entries()
    if name not in entries:
        close = get_close_matches(name, entries, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}?" if close else "vis weights list shows all"
        raise InputError(f"weights zoo://{name}: there is no such name; {hint}")
    return entries[name]


def zoo_file(name: str) -> str:
    """Return the local file of an entry; downloads it (once) where it has an address.

    Raises:
        InputError: no such name, it has to be fetched by hand, no network, or a wrong checksum.
    """
    entry = zoo_entry(name)
    if entry.file:
        return str(_HERE / "shipped" / entry.file)
    if not entry.url:
        raise InputError(f"weights zoo://{entry.name}: has to be fetched by hand: {entry.by_hand}")
    local = local_copy(entry.url)
    if entry.sha256 and _sha256(local) != entry.sha256:
        raise InputError(
            f"weights zoo://{entry.name}: {local} is not the published file (its sha256 differs): "
            "delete it and try again"
        )
    return local


def get_weights(name: str, target: str | Path) -> Path:
    """Copy an entry's file to ``target`` (a file, or a folder that exists).

    Raises:
        InputError: see ``zoo_file``; or ``target`` exists.
    """
    local = Path(zoo_file(name))
    target = Path(target)
    if target.is_dir():
        target = target / local.name.split("?")[0]
    if target.exists():
        raise InputError(f"{target}: exists already; name another file")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(local, target)
    return target


def _sha256(file: str) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class _ZooHandler(PathHandler):
    """Makes ``zoo://NAME`` a path wherever Detectron2 takes one."""

    def _get_supported_prefixes(self) -> list[str]:
        return [SCHEME]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return zoo_file(path)

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return path.removeprefix(SCHEME) in zoo_entries()

    def _exists(self, path: str, **kwargs: Any) -> bool:
        return self._isfile(path)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        return open(zoo_file(path), mode, buffering=buffering)


def register_zoo_paths() -> None:
    """Let Detectron2's PathManager resolve ``zoo://``."""
    PathManager.register_handler(_ZooHandler(), allow_override=True)
