"""PNGs of ids, read and written without an imaging library's notion of colour.

A palette PNG holds ids as indices; readers that give its colours lose them. Here the header of a
palette PNG is rewritten to "grey", so that OpenCV's decoder returns the indices. Chunks are checked
against their sums, so that a damaged or cut-off file is an error and never half a mask.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, PALETTE = 0, 3
COLOURS = {2: "RGB", 4: "LA", 6: "RGBA"}


class PngError(ValueError):
    """The bytes are no PNG of ids; the message says why."""


class _Png(NamedTuple):
    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool
    header: bytes
    palette: bytes | None
    data: list[bytes]


def decode_ids(content: bytes) -> np.ndarray:
    """Return the pixel values of a single-channel PNG, (H, W) uint8 or uint16.

    Raises PngError for colours, and for a damaged file.
    """
    png = _parse(content)
    if png.colour in COLOURS:
        raise PngError(f"mode {COLOURS[png.colour]}")
    # writers filter grey images, as a rule, and leave palettes alone
    if png.depth == 8 and png.colour == PALETTE and not png.interlaced:
        try:
            raw = np.frombuffer(zlib.decompress(b"".join(png.data)), np.uint8)
        except zlib.error:
            raise PngError("damaged") from None
        if raw.size != png.height * (png.width + 1):
            raise PngError("damaged")
        rows = raw.reshape(png.height, png.width + 1)
        if not rows[:, 0].any():  # no filter: the rows are the pixels
            return np.ascontiguousarray(rows[:, 1:])
    return _decode_filtered(png)


def _decode_filtered(png: _Png) -> np.ndarray:
    """Let OpenCV undo filters, interlacing and packing of a grey image of the same data."""
    import cv2

    header = png.header[:9] + bytes([GREY]) + png.header[10:]
    content = SIGNATURE + _chunk(b"IHDR", header)
    content += b"".join(_chunk(b"IDAT", part) for part in png.data) + _chunk(b"IEND", b"")
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.shape != (png.height, png.width):
        raise PngError("damaged")
    if png.depth < 8:  # the decoder stretches them to 0..255
        pixels //= 255 // ((1 << png.depth) - 1)
    return pixels


def encode_ids(pixels: np.ndarray, palette: Sequence[int]) -> bytes:
    """Return a palette PNG of ids (H, W) uint8; ``palette`` is red, green, blue, red, ..."""
    height, width = pixels.shape
    rows = np.zeros((height, width + 1), np.uint8)  # a filter byte before each row
    rows[:, 1:] = pixels
    header = struct.pack(">IIBBBBB", width, height, 8, PALETTE, 0, 0, 0)
    data = zlib.compress(rows.tobytes(), 6)
    return b"".join(
        [
            SIGNATURE,
            _chunk(b"IHDR", header),
            _chunk(b"PLTE", bytes(palette)),
            _chunk(b"IDAT", data),
            _chunk(b"IEND", b""),
        ]
    )


def palette_of(content: bytes) -> list[int] | None:
    """Return the palette of a PNG, None if it has none. Raises PngError if it is damaged."""
    png = _parse(content)
    return list(png.palette) if png.colour == PALETTE and png.palette is not None else None


def _parse(content: bytes) -> _Png:
    """Split a PNG into its chunks and check their sums."""
    if content[:8] != SIGNATURE:
        raise PngError("no image in it" if content else "empty")
    place, header, palette, data, complete = 8, b"", None, [], False
    while place + 8 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        kind, end = content[place + 4 : place + 8], place + 12 + length
        if end > len(content):
            break
        body = content[place + 8 : end - 4]
        if kind in (b"IHDR", b"PLTE", b"IDAT"):
            if zlib.crc32(content[place + 4 : end - 4]) != int.from_bytes(
                content[end - 4 : end], "big"
            ):
                raise PngError("damaged")
            if kind == b"IHDR":
                header = body
            elif kind == b"PLTE":
                palette = body
            else:
                data.append(body)
        if kind == b"IEND":
            complete = True
            break
        place = end
    if not complete or len(header) != 13 or not data:
        raise PngError("cut off")
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", header)
    if min(width, height) < 1 or depth not in (1, 2, 4, 8, 16):
        raise PngError("damaged")
    return _Png(width, height, depth, colour, bool(interlace), header, palette, data)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
