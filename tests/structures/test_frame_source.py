"""Frames from folders, arrays and streams; every bad frame is named."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from vis_projects.structures import ArraySource, FolderSource, InputError, IterableSource


def write_frames(folder: Path, count: int = 5, size: tuple[int, int] = (24, 32)) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 255, (count, *size, 3), np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        cv2.imwrite(str(folder / f"{i:05d}.png"), image)
    return images


def test_folder_gives_its_frames_in_order(tmp_path: Path) -> None:
    images = write_frames(tmp_path)
    source = FolderSource(tmp_path)
    assert source.size == (24, 32)
    assert len(source) == 5
    for frame, image in zip(source, images):
        assert np.array_equal(frame.array(), image)
    assert source[-1].name == "00004"
    assert np.array_equal(
        FolderSource(tmp_path, image_format="RGB")[1].array(), images[1][..., ::-1]
    )


def test_source_travels_to_workers(tmp_path: Path) -> None:
    images = write_frames(tmp_path)
    source = pickle.loads(pickle.dumps(FolderSource(tmp_path)))
    assert np.array_equal(source[3].array(), images[3])


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_truncated_image_is_named(tmp_path: Path, suffix: str) -> None:
    write_frames(tmp_path, 2)
    cv2.imwrite(str(tmp_path / f"00001{suffix}"), np.zeros((24, 32, 3), np.uint8))
    file = tmp_path / f"00001{suffix}"
    file.write_bytes(file.read_bytes()[:-20])
    if suffix == ".jpg":
        (tmp_path / "00001.png").unlink()
    with pytest.raises(InputError, match=rf"00001\{suffix}.*truncated"):
        list(FolderSource(tmp_path))


def test_other_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        FolderSource(tmp_path / "absent")
    with pytest.raises(InputError, match="no image"):
        FolderSource(tmp_path)
    write_frames(tmp_path, 2)
    (tmp_path / "00001.png").write_bytes(b"text")
    with pytest.raises(InputError, match="no readable image"):
        FolderSource(tmp_path)[1]
    cv2.imwrite(str(tmp_path / "00001.png"), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(InputError, match="one size"):
        FolderSource(tmp_path)[1]


def test_error_comes_at_its_place_in_the_stream(tmp_path: Path) -> None:
    write_frames(tmp_path, 4)
    (tmp_path / "00002.png").write_bytes(b"")
    seen = []
    with pytest.raises(InputError, match=r"00002\.png"):
        for frame in FolderSource(tmp_path):
            seen.append(frame.index)
    assert seen == [0, 1]


def test_leaving_a_loop_ends_the_decoder(tmp_path: Path) -> None:
    write_frames(tmp_path, 5)
    before = threading.active_count()
    for _ in FolderSource(tmp_path, decode_ahead=2):
        break
    assert threading.active_count() == before


def test_arrays_are_checked() -> None:
    frames = np.zeros((2, 4, 6, 3), np.uint8)
    assert ArraySource(frames)[1].image.shape == (3, 4, 6)
    with pytest.raises(InputError, match="uint8"):
        ArraySource(frames.astype(float))[0]
    with pytest.raises(IndexError):
        ArraySource(frames)[2]
    with pytest.raises(InputError, match="needs its size"):
        ArraySource([])


def test_streams_run_once_and_cannot_seek() -> None:
    source = IterableSource(iter(np.zeros((3, 4, 6, 3), np.uint8)))
    assert source.length is None
    assert source.size == (4, 6)
    assert len(list(source)) == 3
    with pytest.raises(TypeError, match="cannot seek"):
        source[0]
