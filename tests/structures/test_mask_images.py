"""Masks as people's programs save them: ids come out right, or one line says what is wrong."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from vis_projects.structures import InputError, is_soft, object_ids, read_ids
from vis_projects.structures.mask_images import palette


def two_objects(low: int = 1, high: int = 2) -> np.ndarray:
    labels = np.zeros((40, 60), np.uint8)
    labels[5:20, 5:20], labels[10:35, 30:50] = low, high
    return labels


def disc(sigma: float) -> np.ndarray:
    """A disc painted with a soft brush, 0 to 255."""
    rows, columns = np.mgrid[:60, :80]
    hard = ((rows - 30) ** 2 + (columns - 40) ** 2 < 15**2).astype(np.float64) * 255
    return np.round(cv2.GaussianBlur(hard, (0, 0), sigma)).astype(np.uint8)


def understood(file: Path) -> np.ndarray:
    return object_ids(read_ids(file), name=str(file))


def _rgb(labels: np.ndarray, table: np.ndarray) -> Image.Image:
    return Image.fromarray(table[labels].astype(np.uint8))


def _rgba(labels: np.ndarray) -> Image.Image:
    alpha = np.zeros((*labels.shape, 4), np.uint8)
    alpha[..., 3] = (labels > 0) * 255
    return Image.fromarray(alpha)


LABELS = two_objects()
ONE = (LABELS > 0).astype(np.uint8)
GOOD = {
    "grey.png": (Image.fromarray(LABELS), LABELS),
    "indexed.png": (Image.fromarray(LABELS).convert("P"), LABELS),
    "ids.tif": (Image.fromarray(LABELS), LABELS),
    "sixteen.png": (Image.fromarray(LABELS.astype(np.uint16)), LABELS),
    "thirty-two.tif": (Image.fromarray(LABELS.astype(np.int32)), LABELS),
    "float.tif": (Image.fromarray(LABELS.astype(np.float32)), LABELS),
    "grey_as_rgb.png": (Image.fromarray(np.stack([LABELS] * 3, -1)), LABELS),
    "davis_colours.png": (_rgb(LABELS, palette()), LABELS),
    "one_colour.png": (_rgb(ONE, np.array([[0, 0, 0], [255, 40, 0]])), ONE),
    "bits.png": (Image.fromarray(ONE.astype(bool)), ONE),
    "black_white.png": (Image.fromarray(ONE * 255), ONE),
    "black_white_16.png": (Image.fromarray(ONE.astype(np.uint16) * 65535), ONE),
    "alpha.png": (_rgba(LABELS), ONE),
    "grey_alpha.png": (Image.merge("LA", [Image.fromarray(ONE * 255)] * 2), ONE),
    "gaps.png": (Image.fromarray(two_objects(5, 9)), two_objects(5, 9)),
}


@pytest.mark.parametrize("name", sorted(GOOD))
def test_ids_come_out_as_they_were_meant(tmp_path: Path, name: str) -> None:
    image, wanted = GOOD[name]
    image.save(tmp_path / name)
    assert np.array_equal(understood(tmp_path / name), wanted)


NAMED = {
    "soft.png": (Image.fromarray(disc(4)), "soft mask .* threshold"),
    "slightly_soft.png": (Image.fromarray(disc(1)), "soft mask .* threshold"),
    "very_soft.png": (Image.fromarray(disc(12)), "soft mask .* threshold"),
    "lossy.jpg": (Image.fromarray(ONE * 255), "a JPEG changes the values"),
    "high.png": (Image.fromarray(LABELS.astype(np.uint16) * 150), "id 300; ids of objects are 1"),
    "high.tif": (Image.fromarray(LABELS.astype(np.int32) * 128), "id 256"),
    "negative.tif": (Image.fromarray(-LABELS.astype(np.int32)), "holds the value -2"),
    "scores.tif": (Image.fromarray(LABELS.astype(np.float32) / 3), "fractions"),
    "levels.png": (Image.fromarray(two_objects(128, 255)), "look like grey levels"),
    "colours.png": (
        _rgb(LABELS, np.array([[9, 9, 9], [255, 40, 0], [0, 90, 200]])),
        "3 colours instead of ids",
    ),
}


@pytest.mark.parametrize("name", sorted(NAMED))
def test_what_is_no_id_is_named(tmp_path: Path, name: str) -> None:
    image, words = NAMED[name]
    image.save(tmp_path / name)
    with pytest.raises(InputError, match=f"{name}.*{words}"):
        understood(tmp_path / name)


LOSSY = {
    "a.webp": ({"quality": 80}, "a lossy WebP changes"),
    "a.tif": ({"compression": "jpeg"}, "a TIFF of jpeg compression changes"),
    "a.jp2": ({}, "a JPEG2000 changes"),
    "jpeg_called.png": ({"format": "JPEG"}, "a JPEG changes"),
}


@pytest.mark.parametrize("name", sorted(LOSSY))
def test_lossy_files_are_refused_by_what_they_are(tmp_path: Path, name: str) -> None:
    options, words = LOSSY[name]
    Image.fromarray(ONE * 255).convert("RGB").save(tmp_path / name, **options)
    with pytest.raises(InputError, match=f"{words} the values of a mask; save ids as PNG"):
        read_ids(tmp_path / name)
    Image.fromarray(ONE * 255).convert("RGB").save(tmp_path / "whole.webp", lossless=True)
    assert np.array_equal(understood(tmp_path / "whole.webp"), ONE)


@pytest.mark.parametrize("quality", [50, 75, 90, 95])
@pytest.mark.parametrize("levels", [(255, 255), (100, 200), (60, 255)])
def test_a_lossy_mask_that_was_saved_anew(tmp_path: Path, quality: int, levels) -> None:
    image = Image.fromarray(cv2.resize(two_objects(*levels), (240, 160), interpolation=0))
    image.save(tmp_path / "m.jpg", quality=quality)
    Image.open(tmp_path / "m.jpg").save(tmp_path / "m.png")
    told = r"m\.png: (\d+ values that run into each other|the values .* look like grey levels)"
    with pytest.raises(InputError, match=told):
        understood(tmp_path / "m.png")


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", LABELS)
    with pytest.raises(InputError, match=r"m\.npy: an array, no image; save ids as PNG"):
        read_ids(tmp_path / "m.npy")
    with pytest.raises(InputError, match="is a folder; give a mask file"):
        read_ids(tmp_path)


def test_ids_with_void_stay(tmp_path: Path) -> None:
    labels = two_objects()
    labels[0] = 255
    Image.fromarray(labels).save(tmp_path / "m.png")
    assert np.array_equal(understood(tmp_path / "m.png"), labels)


def test_crowded_ids_are_not_soft() -> None:
    crowd = np.kron(np.arange(1, 217).reshape(12, 18), np.ones((5, 5), int)).astype(np.uint8)
    assert not is_soft(crowd)
    cells = np.zeros((60, 80), np.uint8)
    for k in range(150):
        cells[4 * (k // 15) + 5 : 4 * (k // 15) + 8, 5 * (k % 15) + 2 : 5 * (k % 15) + 5] = k + 1
    assert not is_soft(cells)
    tiny = np.zeros((24, 32), np.uint8)
    tiny[2:4, 2:4], tiny[2:4, 4:6], tiny[4:6, 2:4], tiny[10:12, 10:12] = 3, 7, 50, 90
    assert not is_soft(tiny)
    resized = cv2.resize(np.pad(np.full((8, 8), 255, np.uint8), 8), (60, 60))
    assert is_soft(resized)


def test_damaged_masks_are_named(tmp_path: Path) -> None:
    file = tmp_path / "m.png"
    Image.fromarray(LABELS).save(file)
    data = file.read_bytes()
    for bad in (b"", b"text", data[:60], data[:30] + bytes(40) + data[70:]):
        file.write_bytes(bad)
        with pytest.raises(InputError, match=r"m\.png: no readable mask image"):
            read_ids(file)
    with pytest.raises(InputError, match="no such mask file"):
        read_ids(tmp_path / "absent.png")
