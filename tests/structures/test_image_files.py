"""Which files of a folder are frames, in what order, and how they are read."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from vis_projects.structures import FolderSource, InputError, image_size, list_images, read_image
from vis_projects.structures import image_files as module
from vis_projects.video import open_source


def picture(seed: int = 0, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    """A smooth picture, RGB, so that JPEG keeps it."""
    small = np.random.default_rng(seed).integers(0, 255, (5, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BILINEAR))


def save(file: Path, seed: int = 0, **options: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed)).save(file, **options)
    return file


@pytest.fixture
def told(caplog, monkeypatch):
    monkeypatch.setattr(module, "_told", set())
    caplog.set_level(logging.WARNING)
    return caplog


@pytest.mark.parametrize("form", ["{}.jpg", "frame_{}.JPG", "a 1 frame{} b.PNG", "{:05d}.png"])
def test_numbered_frames_come_in_the_order_of_numbers(tmp_path: Path, form: str) -> None:
    for number in (10, 2, 1, 12, 9, 11):
        save(tmp_path / form.format(number))
    wanted = [form.format(n) for n in (1, 2, 9, 10, 11, 12)]
    assert [f.name for f in list_images(tmp_path)] == wanted
    assert FolderSource(tmp_path).names == [Path(n).stem for n in wanted]


def test_system_files_are_no_frames(tmp_path: Path) -> None:
    save(tmp_path / "1.jpg")
    for name in (".DS_Store", "._1.jpg", "Thumbs.db", "desktop.ini", ".hidden.png", "1.jpg~"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "2.jpg").mkdir()  # a folder called like a picture
    assert [f.name for f in list_images(tmp_path)] == ["1.jpg"]


def test_a_mask_among_the_frames_is_left_out(tmp_path: Path, told) -> None:
    for t in range(4):
        save(tmp_path / f"{t:05d}.jpg")
    Image.fromarray(np.eye(40, 60, dtype=np.uint8)).save(tmp_path / "00000.png")
    assert [f.suffix for f in list_images(tmp_path)] == [".jpg"] * 4
    assert "00000.png" in told.text and "left out" in told.text
    # of another name it is known by its palette, or because it is the mask that was given
    (tmp_path / "00000.png").rename(tmp_path / "m.png")
    assert len(list_images(tmp_path)) == 5
    assert len(list_images(tmp_path, exclude=[tmp_path / "m.png"])) == 4
    indexed = Image.fromarray(np.eye(40, 60, dtype=np.uint8))
    indexed.putpalette([0, 0, 0, 255, 0, 0])
    indexed.save(tmp_path / "m.png")
    assert len(list_images(tmp_path)) == 4


def test_masks_beside_every_frame_are_left_out(tmp_path: Path, told) -> None:
    for t in range(3):
        save(tmp_path / f"{t}.png")
        save(tmp_path / f"{t}.jpeg")
    assert [f.name for f in list_images(tmp_path)] == ["0.jpeg", "1.jpeg", "2.jpeg"]


@pytest.mark.parametrize("names", [("1.jpg", "1.jpeg"), ("1.png", "1.bmp"), ("1.PNG", "1.png")])
def test_two_files_of_one_name_are_named(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in (*names, "2.tif"):
        save(tmp_path / name)
    with pytest.raises(InputError, match=r"1\..* and 1\..* could both be one frame"):
        list_images(tmp_path)


def test_a_folder_of_other_files_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"x")
    with pytest.raises(InputError, match=r"no image .*it holds \.heic"):
        list_images(tmp_path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_one_in_every_reader(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {"quality": 95} if suffix == "jpg" else {}
    file = save(tmp_path / f"a.{suffix}", exif=exif, **options)
    wanted = np.asarray(ImageOps.exif_transpose(Image.fromarray(picture())))
    upright = {1: picture(), 6: np.rot90(picture(), 3), 3: np.rot90(picture(), 2)}.get(orientation)
    with Image.open(file) as image:
        wanted = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    found = read_image(file)[..., ::-1]
    assert found.shape == wanted.shape == (*image_size(file), 3)
    assert np.abs(found.astype(int) - wanted).mean() < 2
    if upright is not None:
        assert np.abs(found.astype(int) - upright).mean() < 4


def test_bytes_behind_the_end_do_no_harm(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.png"):
        file = save(tmp_path / name)
        before = read_image(file)
        file.write_bytes(file.read_bytes() + b"\xff\xd8 and a film of some seconds" * 400)
        assert np.array_equal(read_image(file), before)


def test_a_jpeg_that_lacks_only_its_end_mark_is_whole(tmp_path: Path) -> None:
    file = save(tmp_path / "a.jpg", progressive=False)
    before, data = read_image(file), file.read_bytes()
    for missing in (1, 2):
        file.write_bytes(data[:-missing])
        assert np.array_equal(read_image(file), before)
    for missing in (40, len(data) // 2):
        file.write_bytes(data[:-missing])
        with pytest.raises(InputError, match=r"a\.jpg: this image is truncated"):
            read_image(file)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled(tmp_path: Path, told, suffix: str) -> None:
    image = picture()[..., ::-1]
    cv2.imwrite(str(tmp_path / f"full.{suffix}"), image.astype(np.uint16) * 257)
    assert np.array_equal(read_image(tmp_path / f"full.{suffix}"), image)
    assert not told.text
    cv2.imwrite(str(tmp_path / f"ten.{suffix}"), image.astype(np.uint16) * 4)
    read_image(tmp_path / f"ten.{suffix}")
    assert "use 10 bits come out nearly black" in told.text


def test_float_images_are_named(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.tif"), picture().astype(np.float32) / 255)
    with pytest.raises(InputError, match=r"a\.tif: an image of float32 values"):
        read_image(tmp_path / "a.tif")


def test_32_bits_are_named(tmp_path: Path) -> None:
    Image.fromarray(picture()[..., 0].astype(np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif: an image of 32-bit values; save frames with 8"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.tif", "a.webp", "a.png"])
def test_a_stack_or_animation_is_no_single_frame(tmp_path: Path, name: str) -> None:
    pages = [Image.fromarray(np.roll(picture(), t, 0)) for t in range(3)]
    pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match=f"{name}: an image file of 3 frames; save them as"):
        open_source(tmp_path / name)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK"])
def test_every_mode_becomes_three_channels(tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(picture()).convert(mode).save(file)
    assert read_image(file).shape == (40, 60, 3)
