"""Result files of the benchmarks: YouTube-VIS json, DAVIS and YouTube-VOS label maps, zips.

Every file is written next to its place under a temporary name and renamed when complete, so a
killed run leaves either the old file or the new one, never half of one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import InputError, ResultFileError
from .png import PngError, encode_ids, palette_of

ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # zips of equal results are equal byte for byte


def voc_palette() -> list[int]:
    """Return the PASCAL-VOC colour map that DAVIS uses, 256 x (red, green, blue) in one list.

    Entry i: its bits, three at a time, go to red, green and blue from bit 7 downwards.
    """
    palette = np.zeros((256, 3), dtype=np.uint8)
    index = np.arange(256)
    for level in range(8):
        for channel in range(3):
            bit = (index >> (3 * level + channel)) & 1
            palette[:, channel] |= (bit << (7 - level)).astype(np.uint8)
    return palette.ravel().tolist()


def read_palette(file: Path) -> list[int] | None:
    """Return the palette of a PNG, None if it has none; YouTube-VOS results reuse their input's."""
    try:
        return palette_of(Path(file).read_bytes())
    except PngError as reason:
        raise InputError(f"{file}: not a readable PNG ({reason}); write it again") from None


def write_label_map(
    file: Path, label_map: np.ndarray, *, palette: Sequence[int] | None = None
) -> None:
    """Write a label map (H, W) with ids 0..255 as a palette PNG; folders are created.

    Raises ResultFileError if it is not two-dimensional or an id does not fit.
    """
    label_map = np.asarray(label_map)
    if label_map.ndim != 2:
        raise ResultFileError(f"{file}: a label map is (height, width), got {label_map.shape}")
    if label_map.size and not (label_map.min() >= 0 and label_map.max() <= 255):
        raise ResultFileError(
            f"{file}: ids from {label_map.min()} to {label_map.max()} do not fit into a PNG; "
            "renumber them to 1..255"
        )
    colours = voc_palette() if palette is None else list(palette)
    with _replacing(Path(file)) as stream:
        stream.write(encode_ids(label_map.astype(np.uint8), colours))


def write_sequence(
    folder: Path,
    label_maps: Iterable[np.ndarray],
    names: Sequence[str],
    *,
    palette: Sequence[int] | None = None,
) -> None:
    """Write the label maps of one video as ``<folder>/<name>.png``; the folder appears complete.

    ``names`` with or without ``.png``, one per map. An existing folder is replaced.
    Raises ResultFileError if the numbers of maps and names differ.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        count = 0
        for label_map in label_maps:
            if count < len(names):
                name = f"{names[count].removesuffix('.png')}.png"
                write_label_map(temporary / name, label_map, palette=palette)
            count += 1
        if count != len(names):
            raise ResultFileError(f"{folder}: {count} label maps for {len(names)} frame names")
        temporary.chmod(0o755)
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            os.replace(folder, old / folder.name)
            os.replace(temporary, folder)
            shutil.rmtree(old)
        else:
            os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_ytvis_results(
    entries: Iterable[Mapping[str, Any]], file: Path, *, zipped: bool = True
) -> Path:
    """Write ``results.json`` of YouTube-VIS and OVIS, one entry per track; returns the last file.

    Entries are ``{"video_id", "category_id", "score", "segmentations": [RLE or None] * T}`` in the
    data set's own ids; ``counts`` may be bytes. ``zipped`` adds ``<file>.zip`` with
    ``results.json`` at its root, as the servers want it. An empty list is written as such.
    Raises ResultFileError for a score that is not finite.
    """
    file = Path(file)
    with _replacing(file) as stream:
        stream.write(b"[")
        for index, entry in enumerate(entries):
            stream.write(b",\n" if index else b"\n")
            stream.write(json.dumps(_ytvis_entry(entry, file, index)).encode())
        stream.write(b"\n]\n")
    if not zipped:
        return file
    return zip_file(file, file.with_suffix(".zip"), inside="results.json")


def _ytvis_entry(entry: Mapping[str, Any], file: Path, index: int) -> dict[str, Any]:
    """Return an entry with plain numbers, text counts and null for empty frames."""
    score = float(entry["score"])
    if not np.isfinite(score):
        raise ResultFileError(
            f"{file}, entry {index} (video {entry['video_id']}): score {score} is not finite"
        )
    return {
        "video_id": int(entry["video_id"]),
        "category_id": int(entry["category_id"]),
        "score": score,
        "segmentations": [_text_rle(rle) for rle in entry["segmentations"]],
    }


def _text_rle(rle: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if rle is None:
        return None
    counts = rle["counts"]
    return {
        "size": [int(n) for n in rle["size"]],
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }


def zip_file(file: Path, archive: Path, *, inside: str | None = None) -> Path:
    """Zip one file at the archive's root under the name ``inside``."""
    with _replacing(Path(archive)) as stream, zipfile.ZipFile(stream, "w") as target:
        _add(target, Path(file), inside or Path(file).name)
    return Path(archive)


def zip_folder(
    folder: Path,
    archive: Path | None = None,
    *,
    with_folder: bool = False,
    only: Collection[str] | None = None,
) -> Path:
    """Zip the PNGs below a folder and return the archive, by default ``<folder>.zip``.

    DAVIS wants the sequence folders at the root; YouTube-VOS wants the ``Annotations`` folder
    itself there too (``with_folder=True``). Hidden files are left out. ``only`` names the folders
    to take; by default all.
    Raises ResultFileError if there is no PNG.
    """
    folder = Path(folder)
    archive = folder.with_name(f"{folder.name}.zip") if archive is None else Path(archive)
    base = folder.parent if with_folder else folder
    files = [
        file
        for file in sorted(folder.rglob("*.png"))
        if not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and (only is None or file.relative_to(folder).parent.as_posix() in only)
    ]
    if not files:
        raise ResultFileError(f"{folder}: holds no PNG to zip")
    with _replacing(archive) as stream, zipfile.ZipFile(stream, "w") as target:
        for file in files:
            _add(target, file, file.relative_to(base).as_posix())
    return archive


def _add(target: zipfile.ZipFile, file: Path, name: str) -> None:
    """Add a file with a fixed date; PNGs are compressed already."""
    info = zipfile.ZipInfo(name, ZIP_DATE)
    info.external_attr = 0o644 << 16
    stored = file.suffix == ".png"
    info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
    with file.open("rb") as source, target.open(info, "w", force_zip64=True) as sink:
        shutil.copyfileobj(source, sink, 1 << 20)


def write_text_atomically(file: Path, text: str) -> None:
    """Write a text file; folders are created."""
    with _replacing(Path(file)) as stream:
        stream.write(text.encode())


def write_json_atomically(file: Path, content: Any) -> None:
    """Write json; what is not a number in floating point (NaN) becomes null."""
    write_text_atomically(file, json.dumps(_without_nan(content), indent=2) + "\n")


def _without_nan(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and content != content else content


@contextlib.contextmanager
def _replacing(file: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``file`` and put it in its place if all goes well."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    except OSError as reason:
        raise InputError(f"{file}: cannot be written ({reason.strerror})") from None
    try:
        with os.fdopen(handle, "w+b") as stream:
            yield stream
        os.chmod(name, 0o644)
        os.replace(name, file)
    except OSError as reason:  # a full disk
        _remove(name)
        raise InputError(f"{file}: cannot be written ({reason.strerror})") from None
    except BaseException:
        _remove(name)
        raise


def _remove(name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name)
