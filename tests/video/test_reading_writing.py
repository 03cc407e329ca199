"""Video files: what is written can be read, in any order; damage is named."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from vis_projects.engine.benchmark import moving_boxes
from vis_projects.structures import ArraySource, FolderSource, InputError, IterableSource
from vis_projects.video import VideoFileSource, VideoWriter, draw_label_map, id_colour, open_source


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("video") / "clip.mp4"
    with VideoWriter(file, fps=25) as writer:
        for image in moving_boxes((48, 64), 2, frames=60)[0]:
            writer.add(image)
    assert not file.with_name("clip.mp4.part").exists()
    return file


def test_video_is_read_whole(clip: Path) -> None:
    source = VideoFileSource(clip, image_format="RGB")
    assert (source.size, source.length, source.fps) == ((48, 64), 60, 25)
    images = moving_boxes((48, 64), 2, frames=60)[0]
    for frame, image in zip(source, images):
        assert np.abs(frame.array().astype(int) - image).mean() < 12  # lossy


def test_seeking_gives_the_same_frames(clip: Path) -> None:
    source = VideoFileSource(clip)
    frames = [frame.array() for frame in source]
    source = pickle.loads(pickle.dumps(source))
    for index in (59, 0, 30, 31, 5, 58):
        assert np.array_equal(source[index].array(), frames[index])
    source.close()
    assert np.array_equal(source[7].array(), frames[7])


def test_truncated_video_is_named(clip: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(clip.read_bytes()[:800])
    with pytest.raises(InputError, match=r"broken\.mp4"):
        list(VideoFileSource(broken))
    with pytest.raises(InputError, match="no such video"):
        VideoFileSource(tmp_path / "absent.mp4")
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    with pytest.raises(InputError, match=r"text\.mp4"):
        VideoFileSource(text)


def test_an_error_leaves_no_half_video(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "a.mp4") as writer:
        writer.add(np.zeros((15, 17, 3), np.uint8))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_open_source_takes_what_a_user_has(clip: Path, tmp_path: Path) -> None:
    assert isinstance(open_source(str(clip)), VideoFileSource)
    assert isinstance(open_source(np.zeros((2, 4, 4, 3), np.uint8)), ArraySource)
    assert isinstance(open_source(iter([])), IterableSource)
    with pytest.raises(InputError, match="no such file"):
        open_source(tmp_path / "absent")
    with pytest.raises(InputError, match="no image"):
        open_source(tmp_path)
    with pytest.raises(InputError, match="is no video"):
        open_source(3.5)
    source = ArraySource(np.zeros((2, 4, 4, 3), np.uint8), image_format="RGB")
    with pytest.raises(InputError, match="INPUT.FORMAT"):
        open_source(source, image_format="BGR")
    assert issubclass(FolderSource, type(source).__mro__[1])


def test_colours_belong_to_ids() -> None:
    colours = [id_colour(i) for i in range(1, 30)]
    assert len(set(colours)) == 29
    image = np.zeros((20, 20, 3), np.uint8)
    labels = np.zeros((20, 20), np.uint8)
    labels[5:15, 5:15] = 3
    one = draw_label_map(image, labels)
    labels[0, 0] = 1
    two = draw_label_map(image, labels)
    assert np.array_equal(one[14, 14], two[14, 14])
    assert not one[0, 1].any()
    assert not np.array_equal(one, draw_label_map(image, labels, captions={3: "cat"}))
