"""Reading annotation files with errors that name the file, the entry and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...structures import InputError


def read_json(file: str | Path) -> dict[str, Any]:
    """Read a json file whose top level is an object.

    Raises:
        InputError: missing file, syntax error (with line), another top level.
    """
    path = Path(file)
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot read this file ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: this file is no text; is it still compressed?") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: json syntax error in line {error.lineno}, column {error.colno} "
            f"({error.msg}); "
            "the file may be cut off, download it again"
        ) from None
    if not isinstance(data, dict):
        raise InputError(
            f"{path}: the top level is a {type(data).__name__}; an annotation file is an object "
            "with videos or images, categories and annotations (is this a result file?)"
        )
    return data


def field(entry: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """Return ``entry[key]`` if it is there and of the right type.

    Raises:
        InputError: names ``where``, the key and what was found.
    """
    if not isinstance(entry, dict):
        raise InputError(f"{where}: this entry is a {type(entry).__name__} instead of an object")
    if key not in entry:
        raise InputError(f"{where}: the key {key!r} is missing")
    value = entry[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        wanted = "/".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise InputError(f"{where}: {key} is {value!r:.40}, which is no {wanted}")
    return value


def entries(data: dict[str, Any], key: str, file: str | Path) -> list[Any]:
    """Return a list at the top level that must not be empty."""
    found = field(data, key, list, str(file))
    if not found:
        raise InputError(f"{file}: the list {key!r} is empty; there is nothing to load")
    return found


def unique_ids(rows: Sequence[Any], what: str, file: str | Path) -> list[int]:
    """Return the ids of some entries, in order.

    Raises:
        InputError: an id is missing, no number, or used twice.
    """
    ids: list[int] = []
    seen: set[int] = set()
    for k, row in enumerate(rows):
        i = field(row, "id", int, f"{file}: {what} number {k}")
        if i in seen:
            raise InputError(f"{file}: {what} id {i} is used twice; ids must be unique")
        seen.add(i)
        ids.append(i)
    return ids


def category_maps(data: dict[str, Any], file: str | Path) -> tuple[list[str], dict[int, int]]:
    """Return class names in id order and the map from the file's ids to 0..K-1."""
    rows = entries(data, "categories", file)
    ids = unique_ids(rows, "category", file)
    names = {i: field(row, "name", str, f"{file}: category {i}") for i, row in zip(ids, rows)}
    order = sorted(ids)
    return [names[i] for i in order], {i: k for k, i in enumerate(order)}


def box(value: Any, where: str) -> list[float]:
    """Return a box of four finite numbers.

    Raises:
        InputError: anything else.
    """
    good = isinstance(value, list) and len(value) == 4
    if not good or not all(isinstance(v, (int, float)) and abs(v) < 1e9 for v in value):
        raise InputError(f"{where}: {value!r:.60} is no box [x, y, width, height]")
    return [float(v) for v in value]


def segmentation(value: Any, size: tuple[int, int], where: str) -> Any:
    """Return a segmentation that is fit to use, or None if no valid polygon is left.

    Polygons with an odd number or fewer than six coordinates are dropped; an RLE must have the
    frame's size.

    Raises:
        InputError: neither RLE nor polygons, or an RLE of another size.
    """
    if isinstance(value, list):
        if not all(isinstance(p, list) for p in value):
            raise InputError(f"{where}: {value!r:.60} is neither an RLE nor a list of polygons")
        return [p for p in value if len(p) >= 6 and len(p) % 2 == 0] or None
    if not isinstance(value, dict) or "counts" not in value or "size" not in value:
        raise InputError(f"{where}: {value!r:.60} is neither an RLE nor a list of polygons")
    if list(value["size"]) != list(size):
        raise InputError(
            f"{where}: the mask's size is {value['size']} but its image is {list(size)} (rows, "
            "columns)"
        )
    if not isinstance(value["counts"], (list, str)):
        raise InputError(f"{where}: the RLE's counts are neither a list nor text")
    if isinstance(value["counts"], list) and sum(value["counts"]) != size[0] * size[1]:
        raise InputError(
            f"{where}: the RLE's runs cover {sum(value['counts'])} pixels, not the frame"
        )
    return value
