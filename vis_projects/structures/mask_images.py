"""Object ids from mask images of any kind: what programs save when people draw or export masks.

Letters: H x W pixels. ``read_ids`` undoes how ids are stored (bits, palette, grey, 16 and 32 bit,
floats, grey saved as colour, the DAVIS/VOC colours); ``object_ids`` judges what they mean.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image

from .errors import InputError

VOID = 255
_WHOLE_NUMBERS = ("L", "P", "I;16", "I;16L", "I;16B", "I;16N", "I")
_LOSSY = ("JPEG", "MPO", "JPEG2000", "AVIF", "HEIF")


@lru_cache(maxsize=1)
def palette() -> np.ndarray:
    """Return the colours of ids 0..255 in PASCAL VOC and DAVIS, uint8 (256, 3)."""
    ids = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):  # the bits of an id, three at a time, fill the channels from the top
        for channel in range(3):
            colours[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(
                np.uint8
            )
    return colours


def read_ids(
    file: Path | BinaryIO, *, error: type[InputError] = InputError, name: str | None = None
) -> np.ndarray:
    """Return the values of a mask image as integers (H, W): uint8, or int32 where they are larger.

    Args:
        error: raised for a file that is missing or damaged, or in which ids cannot be found.
        name: of an open file, for messages.
    """
    name = name or str(file)
    try:
        with Image.open(file) as image:
            lossy = _lossy_format(image)
            if lossy:
                raise error(f"{name}: {lossy} changes the values of a mask; save ids as PNG")
            return _values(image, name, error)
    except error:
        raise
    except FileNotFoundError:
        raise error(f"{name}: no such mask file") from None
    except IsADirectoryError:
        raise error(f"{name}: is a folder; give a mask file") from None
    except Exception as reason:  # whatever a decoder says about a broken file
        raise error(_damaged(name, reason)) from None


def _lossy_format(image: Image.Image) -> str:
    """Return what kind of lossy file an image comes from, "" for one that keeps its values."""
    kind = str(image.format)
    if kind in _LOSSY:
        return f"a {kind}"
    if kind == "TIFF" and image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp"):
        return f"a TIFF of {image.info['compression']} compression"
    if kind == "WEBP":
        image.fp.seek(0)
        if b"VP8L" not in image.fp.read(64 << 10):
            return "a lossy WebP"
    return ""


def read_foreground(file: Path) -> np.ndarray:
    """Return uint8 (H, W): 1 where a mask image, of any kind and colours, is not black.

    Raises:
        InputError: missing or damaged.
    """
    try:
        with Image.open(file) as image:
            if image.mode in ("1", *_WHOLE_NUMBERS):
                return (np.asarray(image) > 0).astype(np.uint8)
            return np.asarray(image.convert("RGB")).any(-1).astype(np.uint8)
    except FileNotFoundError:
        raise InputError(f"{file}: no such mask file") from None
    except Exception as reason:  # whatever a decoder says about a broken file
        raise InputError(_damaged(str(file), reason)) from None


def _damaged(name: str, reason: Exception) -> str:
    text = " ".join(str(reason).split()) or type(reason).__name__
    if Path(name).suffix.lower() in (".npy", ".npz"):
        return f"{name}: an array, no image; save ids as PNG: Image.fromarray(ids).save('mask.png')"
    return f"{name}: no readable mask image, damaged ({text:.100}); write it again"


def _values(image: Image.Image, name: str, error: type[InputError]) -> np.ndarray:
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)
    if image.mode in _WHOLE_NUMBERS:
        return _as_integers(np.asarray(image), name, error)
    if image.mode == "F":
        values = np.asarray(image)
        if not np.isfinite(values).all() or (values != np.round(values)).any():
            raise error(f"{name}: holds fractions, a score map; save whole ids 1, 2, ...")
        return _as_integers(values.astype(np.int64), name, error)
    if image.mode == "LA":
        return _with_alpha(*(np.asarray(c) for c in image.split()))
    if image.mode not in ("RGB", "RGBA", "PA", "RGBX"):
        raise error(f"{name}: a mask of mode {image.mode}; save ids as a PNG of mode P or L")
    pixels = np.asarray(image.convert("RGBA"))
    ids = _ids_of_colours(pixels[..., :3], name, error, opaque=pixels[..., 3] > 0)
    return _with_alpha(ids, pixels[..., 3])


def _as_integers(values: np.ndarray, name: str, error: type[InputError]) -> np.ndarray:
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if low < 0 or high > 2**31 - 1:
        raise error(f"{name}: holds the value {low if low < 0 else high}; ids are 1 to 254")
    return values.astype(np.uint8 if high <= 255 else np.int32)


def _with_alpha(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Join values and transparency: a transparent pixel is background, alpha alone is a mask."""
    if alpha.min(initial=255) == 255:
        return values
    if not values.any():  # a cut-out: black everywhere, the object is what is opaque
        return alpha.copy()
    return np.where(alpha > 0, values, 0).astype(values.dtype)


def _ids_of_colours(
    colours: np.ndarray, name: str, error: type[InputError], *, opaque: np.ndarray
) -> np.ndarray:
    """Return ids of an image (H, W, 3): grey values, the standard palette, or one colour."""
    if (colours == colours[..., :1]).all():
        return np.ascontiguousarray(colours[..., 0])
    packed = colours.astype(np.int32) @ np.array([65536, 256, 1])
    packed[~opaque] = 0
    found = np.unique(packed)
    table = palette().astype(np.int32) @ np.array([65536, 256, 1])
    if np.isin(found, table).all():
        order = np.argsort(table, kind="stable")
        return order[np.searchsorted(table[order], packed)].astype(np.uint8)
    if len(found[found > 0]) == 1:
        return (packed > 0).astype(np.uint8)
    raise error(
        f"{name}: {len(found)} colours instead of ids; save ids 1, 2, ... as a single-channel PNG "
        "(mode P or L), or use the colours of DAVIS"
    )


def object_ids(
    values: np.ndarray,
    *,
    name: str,
    error: type[InputError] = InputError,
    highest: int | None = VOID - 1,
) -> np.ndarray:
    """Return what a user's mask means: (H, W), 0 background, objects from 1 on, 255 void.

    A mask of 0 and 255 (or 65535) alone is one object. The result is uint8 unless ``highest`` is
    None, which allows any id.

    Raises:
        error: values that are no ids: a soft or lossy mask, grey levels, ids above ``highest``.
    """
    present = np.unique(values)
    marked = present[present > 0]
    if len(marked) == 1 and int(marked[0]) in (VOID, 65535):
        return (values > 0).astype(np.uint8)
    if is_soft(values):
        raise error(
            f"{name}: {len(marked)} values that run into each other, a soft mask or one that was "
            "resized or saved with loss; threshold it (value > 127) and save ids 1, 2, ... as PNG"
        )
    if len(marked) and int(marked[-1]) > VOID:
        if highest is None:
            return values
        raise error(
            f"{name}: id {int(marked[-1])}; ids of objects are 1 to {highest}, number the objects "
            "anew"
        )
    others = marked[marked < VOID]
    if len(others) < len(marked) and int(others[-1]) > 10 * len(others) + 10:
        raise error(
            f"{name}: the values {', '.join(map(str, marked[:5].tolist()))} look like grey levels; "
            "255 means void (unknown): save ids 1, 2, ..."
        )
    return values.astype(np.uint8)


def is_soft(values: np.ndarray) -> bool:
    """Tell whether values (H, W) are grey levels of a blurred mask rather than ids.

    Between background and the inside of a soft mask lies a ramp: most pixels of middle values have
    lower and higher ones within three pixels, and the pixels of one value are scattered or form
    thin rings, which objects do not. Or lossy compression left specks of many values.
    """
    present = np.unique(values)
    if _has_specks(values, present):
        return True
    top = int(present[-1]) if len(present) else 0
    middle = present[(present > 0) & (present < top)]
    if len(middle) < 2:
        return False
    ranks = np.searchsorted(present, values).astype(np.uint16)
    window = np.ones((7, 7), np.uint8)
    ramp = (cv2.erode(ranks, window) < ranks) & (cv2.dilate(ranks, window) > ranks)
    between = (values > 0) & (values < top)
    if np.count_nonzero(ramp & between) < 0.5 * np.count_nonzero(between):
        return False
    sample = middle[:: max(len(middle) // 32, 1)]
    return sum(_is_compact(values == v) for v in sample) < 0.5 * len(sample)


def _has_specks(values: np.ndarray, present: np.ndarray) -> bool:
    """Tell whether most values never fill three by three pixels, as a JPEG leaves them."""
    ranks = np.searchsorted(present, values).astype(np.uint16)
    window = np.ones((3, 3), np.uint8)
    plain = cv2.erode(ranks, window) == cv2.dilate(ranks, window)
    filled = np.count_nonzero(np.unique(values[plain]))
    return np.count_nonzero(present) - filled >= max(5, 2 * filled)


def _is_compact(mask: np.ndarray) -> bool:
    """Tell whether most of a mask (H, W) is one piece, not of single pixels, that fills its box."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    pieces = stats[1:]  # the first is the background
    largest = pieces[pieces[:, cv2.CC_STAT_AREA].argmax()]
    area = largest[cv2.CC_STAT_AREA]
    box = largest[cv2.CC_STAT_WIDTH] * largest[cv2.CC_STAT_HEIGHT]
    return bool(
        area >= 4 and area >= 0.5 * pieces[:, cv2.CC_STAT_AREA].sum() and area >= 0.35 * box
    )
