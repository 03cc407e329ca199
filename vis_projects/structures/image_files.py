"""Image files on disk: which files of a folder are frames, in what order, and reading them.

Everything that reads frames reads them here, so that order, orientation and damage are judged
alike by the demo, the data sets and the check.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from vis_metrics.files.names import is_hidden, natural_key

from .errors import InputError

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
_TIFF = (b"II*\x00", b"MM\x00*")
_ORIENTATION = 0x0112  # the EXIF tag
_TURNED = (5, 6, 7, 8)  # orientations that exchange rows and columns
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # in coded data: the next real marker
_told: set[str] = set()


def tell_once(text: str) -> None:
    """Log a warning that has not been logged in this process."""
    if text not in _told:
        _told.add(text)
        logger.warning("%s", text)


# Folders ------------------------------------------------------------------------------------------


def list_folder(folder: Path) -> list[Path]:
    """Return what a user sees in a folder, in natural order."""
    found = (child for child in folder.iterdir() if not is_hidden(child.name))
    return sorted(found, key=lambda child: natural_key(child.name))


def list_images(folder: Path, *, exclude: Collection[Path] = ()) -> list[Path]:
    """Return the frames of a folder in natural order.

    Where two images share a stem, the frames are those of the suffix that has them all, JPEG
    before others, and the rest (masks, previews) is left out with a warning. So are single-channel
    images with a palette among colour frames.

    Args:
        exclude: files that are no frames, such as the given mask.

    Raises:
        InputError: no such folder, no image in it, or two files that could both be a frame.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of frames")
    left_out = {Path(f).resolve() for f in exclude}
    listed = [f for f in list_folder(folder) if f.is_file()]
    files = [f for f in listed if f.suffix.lower() in IMAGE_SUFFIXES]
    files = [f for f in files if f.resolve() not in left_out] if left_out else files
    if not files:
        others = sorted({f.suffix for f in listed if f.suffix})
        held = f"; it holds {', '.join(others[:4])} files" if others else ""
        raise InputError(f"{folder}: no image ({', '.join(IMAGE_SUFFIXES)}) in this folder{held}")
    return _without_masks(_one_per_stem(files, folder), folder)


def _one_per_stem(files: list[Path], folder: Path) -> list[Path]:
    stems = [f.stem for f in files]
    if len(set(stems)) == len(stems):
        return files
    by_kind: dict[str, list[Path]] = {}
    for file in files:
        by_kind.setdefault(_kind(file), []).append(file)
    whole = [k for k, group in by_kind.items() if {f.stem for f in group} == set(stems)]
    chosen = "jpeg" if "jpeg" in whole else (whole[0] if len(whole) == 1 else None)
    if chosen is None or len(by_kind[chosen]) != len(set(stems)):
        twice = next(s for s in stems if stems.count(s) > 1)
        names = " and ".join(f.name for f in files if f.stem == twice)
        raise InputError(f"{folder}: {names} could both be one frame; keep one of them there")
    kept = by_kind[chosen]
    rest = [f.name for f in files if _kind(f) != chosen]
    tell_once(
        f"{folder}: {len(kept)} frames ({kept[0].name}, ...); {', '.join(rest[:3])}"
        f"{', ...' if len(rest) > 3 else ''} of the same name{'s' if len(rest) > 1 else ''} "
        "left out"
    )
    return kept


def _kind(file: Path) -> str:
    suffix = file.suffix.lower()
    return {".jpg": "jpeg", ".jpeg": "jpeg", ".tif": "tiff", ".tiff": "tiff"}.get(suffix, suffix)


def _without_masks(files: list[Path], folder: Path) -> list[Path]:
    """Leave out palette images where most frames are of a kind that cannot be one."""
    lossy = [f for f in files if _kind(f) == "jpeg"]
    others = [f for f in files if _kind(f) != "jpeg"]
    if not others or len(others) >= len(lossy):
        return files
    masks = [f for f in others if _is_indexed(f)]
    if masks:
        tell_once(f"{folder}: {masks[0].name} is an indexed image, a mask: left out of the frames")
    if len(masks) < len(others):
        kept = next(f for f in others if f not in masks)
        tell_once(f"{folder}: {kept.name} among .jpg files is taken as a frame")
    return [f for f in files if f not in masks]


def _is_indexed(file: Path) -> bool:
    try:
        with Image.open(file) as image:
            return image.mode in ("1", "P")
    except Exception:
        return False  # reading it will say what is wrong


def read_lines(file: Path) -> list[str]:
    """Return the lines of a list that hold something, without the byte order mark of Windows.

    Raises:
        InputError: missing, or no text.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{file}: this list is no UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{file}: cannot read this list ({error.strerror})") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def as_posix(name: str) -> str:
    """Return a relative file name of a list or json as this system writes it."""
    return name.replace("\\", "/")


# Images -------------------------------------------------------------------------------------------


def read_image(file: str | Path) -> np.ndarray:
    """Read an image as a uint8 BGR array (H, W, 3), upright as its EXIF orientation says.

    16-bit images are scaled to 8 bits over the full range.

    Raises:
        InputError: the file is missing, truncated or no image.
    """
    path = Path(file)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot read this frame ({error.strerror}); restore the file"
        ) from None
    data = _whole_image(data, path)
    if data[:4] in _TIFF and (tiff := _read_tiff(data)) is not None:
        return tiff
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:  # sizes beyond OpenCV's limits
        image = None
    if image is None:
        image = _by_pillow(data, path)
    image = _eight_bits(image, path)
    return image if data[:4] in _TIFF else _upright(image, _orientation(data))


def _by_pillow(data: bytes, path: Path) -> np.ndarray:
    """Decode, without turning it, what OpenCV does not know.

    Raises:
        InputError: no image, or one whose values are no picture's.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            mode = image.mode
            if mode not in ("F", "I") and not mode.startswith("I;"):
                return np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
    except Exception:
        raise InputError(
            f"{path}: this file is no readable image; copy or download it again"
        ) from None
    kind = "floating point" if mode == "F" else "32-bit"
    raise InputError(f"{path}: an image of {kind} values; save frames with 8 or 16 bits")


def count_pages(file: str | Path) -> int:
    """Return how many frames an image file holds: more than 1 for stacks and animations."""
    try:
        with Image.open(file) as image:
            return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    except Exception:
        return 1  # reading it will say what is wrong


def _read_tiff(data: bytes) -> np.ndarray | None:
    """Decode a tif of 8 bits; versions of OpenCV differ in whether they turn it upright."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK"):
                return None
            if max(image.tag_v2.get(258, (1,))) > 8:  # bits per sample
                return None
            upright = ImageOps.exif_transpose(image)
            return np.ascontiguousarray(np.asarray(upright.convert("RGB"))[..., ::-1])
    except Exception:
        return None


def image_size(file: str | Path) -> tuple[int, int]:
    """Return (rows, columns) of an image as ``read_image`` gives it, without decoding it.

    Raises:
        InputError: missing or damaged.
    """
    try:
        with Image.open(file) as image:
            turned = image.getexif().get(_ORIENTATION, 1) in _TURNED
            width, height = image.size
            if image.format == "TIFF":  # Pillow has turned this one already
                width, height = image.tag_v2[256], image.tag_v2[257]
            return (width, height) if turned else (height, width)
    except Exception:  # whatever a decoder says about a broken file
        raise InputError(f"{file}: missing or no readable image; copy it again") from None


def _orientation(data: bytes) -> int:
    # a WebP keeps EXIF at its end, the others in front of the pixels
    if data[8:12] != b"WEBP" and b"Exif\x00" not in data[:65536] and b"eXIf" not in data[:65536]:
        return 1
    try:
        with Image.open(io.BytesIO(data)) as image:
            return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    if orientation in (2, 5, 7):
        image = image[:, ::-1]
    elif orientation == 4:
        image = image[::-1]
    turns = {3: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0)
    return np.ascontiguousarray(np.rot90(image, turns)) if turns or orientation > 1 else image


def _eight_bits(image: np.ndarray, path: Path) -> np.ndarray:
    """Scale 16 bits to 8; values of fewer bits come out dark, which is said once a folder."""
    if image.dtype == np.uint8:
        return image
    if image.dtype != np.uint16:
        raise InputError(f"{path}: an image of {image.dtype} values; save frames with 8 or 16 bits")
    if 0 < image.max() < 4096:
        bits = int(image.max()).bit_length()
        tell_once(
            f"{path.parent}: 16-bit frames that use {bits} bits come out nearly black; scale them "
            "to the full range first"
        )
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _whole_image(data: bytes, path: Path) -> bytes:
    """Return the bytes of an image without what is appended to it.

    OpenCV fills the missing part of a cut file with grey, silently.

    Raises:
        InputError: the end is missing.
    """
    end: int | None = len(data)
    if data[:2] == b"\xff\xd8":
        end = _jpeg_end(data)
        if end is None and _lacks_only_end(data):  # as cameras that send JPEGs do
            return data.rstrip(b"\xff") + b"\xff\xd9"
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        end = _png_end(data)
    if end is None:
        raise InputError(f"{path}: this image is truncated; copy or download it again")
    return data[:end]


def _jpeg_end(data: bytes) -> int | None:
    """Return where the first image of a JPEG file ends; None if it has no end."""
    place = 2
    while place + 4 <= len(data):
        if data[place] != 0xFF:
            return None
        marker = data[place + 1]
        if marker == 0xFF:  # fill byte
            place += 1
        elif marker == 0xD9:
            return place + 2
        elif marker in (0x01, *range(0xD0, 0xD8)):
            place += 2
        else:
            length = int.from_bytes(data[place + 2 : place + 4], "big")
            place += 2 + length
            if marker == 0xDA:  # coded data follow the header of a scan
                found = _JPEG_MARKER.search(data, place)
                if found is None:
                    return None
                place = found.start()
    return place + 2 if data[place : place + 2] == b"\xff\xd9" else None


def _lacks_only_end(data: bytes) -> bool:
    """Tell whether a JPEG without end mark has all its pixels: what follows changes nothing."""
    try:
        pictures = [
            np.asarray(Image.open(io.BytesIO(data.rstrip(b"\xff") + filling * 64 + b"\xff\xd9")))
            for filling in (b"\x55", b"\xaa")
        ]
    except Exception:
        return False
    return bool(np.array_equal(*pictures))


def _png_end(data: bytes) -> int | None:
    place = 8
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if data[place + 4 : place + 8] == b"IEND":
            return end
        place = end
    return None
