"""Names of files and folders: their natural order, safe ones, and which are hidden."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
LEFT_BEHIND = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "icon\r"}
LONGEST = 80  # characters of a safe name
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # on Windows


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Return a sorting key that counts runs of digits as numbers: 1, 2, 10 and not 1, 10, 2."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def natural_order(names: Iterable[str]) -> list[str]:
    """Return names in natural order."""
    return sorted(names, key=natural_key)


def is_sparse(annotated: Sequence[str], present: Iterable[str]) -> bool:
    """True if some frames that are present lie between annotated ones, given in natural order."""
    if not annotated:
        return False
    first, last = natural_key(annotated[0]), natural_key(annotated[-1])
    return any(first < natural_key(name) < last for name in set(present).difference(annotated))


def is_hidden(name: str) -> bool:
    """True for files and folders that no user means: hidden ones and what systems leave behind."""
    return name.startswith(".") or name.endswith("~") or name.casefold() in LEFT_BEHIND


def safe_name(text: str) -> str:
    """Return a name for one file or folder, legal on every system, that stays where it is put.

    Plain names stay as they are. Any other keeps its readable characters and ends in a hash of the
    whole, so that different texts get different names.
    """
    plain = re.sub(r"[^A-Za-z0-9._+-]+", "_", text).strip("._ ")
    if plain == text and len(text) <= LONGEST and not RESERVED.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    kept = plain[-(LONGEST - 9) :].strip("._ ") or "unnamed"
    return f"{kept}-{digest}"


def safe_path(folder: Path, name: str) -> Path:
    """Return ``folder / safe_name(name)``."""
    return folder / safe_name(name)
