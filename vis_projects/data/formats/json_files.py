"""Reading annotation files with errors that name the file, the entry and what is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from ...structures import InputError, image_size

_RLE = re.compile(r"[0-o]*[0-O]")  # six bits a letter; the last one of a number ends it


def read_json(file: str | Path) -> dict[str, Any]:
    """Read a json file whose top level is an object.

    Raises:
        InputError: missing file, syntax error (with line), another top level.
    """
    path = Path(file)
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"), object_hook=compressed)
    except OSError as error:
        raise InputError(f"{path}: cannot read this file ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: this file is no text; is it still compressed?") from None
    except RecursionError:
        raise InputError(f"{path}: nested too deeply for an annotation file") from None
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


def compressed(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an object of a json, an uncompressed RLE as a compressed one (a tenth of the memory).

    Done while the file is parsed, so that the lists of runs never lie in memory together. Runs that
    are no RLE stay as they are, for ``segmentation`` to name.
    """
    counts, size = entry.get("counts"), entry.get("size")
    if not isinstance(counts, list) or not is_size(size):
        return entry
    try:
        runs = np.asarray(counts, np.int64)
    except (ValueError, TypeError, OverflowError):
        return entry
    if runs.ndim != 1 or (runs < 0).any() or int(runs.sum()) != size[0] * size[1]:
        return entry
    rle = mask_util.frPyObjects({"size": size, "counts": counts}, *size)
    return {"size": size, "counts": rle["counts"].decode("ascii")}


def is_size(value: Any) -> bool:
    """Tell whether a value is [rows, columns]."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(n, int) and 0 < n < 1 << 20 for n in value)
    )


def flag(entry: dict[str, Any], key: str, where: str) -> int:
    """Return 0 or 1; a missing or null flag is 0.

    Raises:
        InputError: anything else.
    """
    value = entry.get(key)
    if value is None or value in (0, 1):
        return int(value or 0)
    raise InputError(f"{where}: {key} is {value!r:.40}; it is 0 or 1")


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


def check_size(image: str, size: tuple[int, int], where: str) -> None:
    """Compare the size of an image (rows, columns), as it is read, with what a json says.

    Raises:
        InputError: they differ.
    """
    found = image_size(image)
    if found != tuple(size):
        turned = found == tuple(size)[::-1]
        hint = "width and height are exchanged" if turned else "the annotations belong elsewhere"
        raise InputError(
            f"{where}: height {size[0]} and width {size[1]}, but {image} is {found[0]} high and "
            f"{found[1]} wide; {hint}"
        )


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
    """Return a segmentation that is fit to use, or None if no valid polygon or no pixel is left.

    Polygons with an odd number or fewer than six coordinates are dropped; an RLE must have the
    frame's size.

    Raises:
        InputError: neither RLE nor polygons, coordinates that are no numbers, or an RLE of another
            size.
    """
    if isinstance(value, list):
        if len(value) >= 6 and all(isinstance(n, (int, float)) for n in value):
            value = [value]  # one polygon that is not in a list
        if not all(isinstance(p, list) for p in value):
            raise InputError(f"{where}: {value!r:.60} is neither an RLE nor a list of polygons")
        kept = [p for p in value if len(p) >= 6 and len(p) % 2 == 0]
        if not all(_are_coordinates(p) for p in kept):
            raise InputError(f"{where}: a polygon holds something that is no coordinate")
        return kept or None
    if not isinstance(value, dict) or "counts" not in value or "size" not in value:
        raise InputError(f"{where}: {value!r:.60} is neither an RLE nor a list of polygons")
    if not is_size(value["size"]) or list(value["size"]) != list(size):
        turned = value["size"] == list(size)[::-1]
        hint = ": width and height are exchanged" if turned else ""
        raise InputError(
            f"{where}: the mask's size is {value['size']!r:.40} but its image is {list(size)} "
            f"(rows, columns){hint}"
        )
    counts = value["counts"]
    if isinstance(counts, list):
        total = sum(n for n in counts if isinstance(n, int))
        raise InputError(
            f"{where}: the RLE's runs cover {total} pixels, the frame has {size[0] * size[1]}"
        )
    if not isinstance(counts, str) or not _RLE.fullmatch(counts):
        raise InputError(f"{where}: the RLE's counts are neither runs nor COCO's compressed text")
    return value if mask_util.area(value) > 0 else None


def _are_coordinates(polygon: list[Any]) -> bool:
    try:
        values = np.asarray(polygon, np.float64)
    except (ValueError, TypeError):
        return False
    return values.ndim == 1 and bool((np.abs(values) < 1e6).all())


def box_of(value: Any, mask: Any, where: str) -> list[float]:
    """Return an annotation's box [x, y, width, height], or its mask's if it has none."""
    if value:
        return box(value, where)
    if isinstance(mask, dict):
        return [float(v) for v in mask_util.toBbox(mask)]
    points = np.concatenate([np.asarray(p, np.float64).reshape(-1, 2) for p in mask])
    low, high = points.min(0), points.max(0)
    return [float(v) for v in (*low, *(high - low))]
