"""Video files as phones, cameras and cuts leave them: what players show comes out."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from vis_projects.modeling.spool import seekable
from vis_projects.structures import FolderSource, InputError
from vis_projects.structures import image_files as listing
from vis_projects.video import VideoFileSource, VideoPredictor, VideoWriter, open_source, video_file
from vis_projects.video.demo_output import run_demo
from vis_projects.video.writing import add_audio

SIZE, FRAMES, GOP = (48, 64), 24, 8
COPY_FIRST = "configs/copy_first/davis2016.yaml"


def drawn(t: int) -> np.ndarray:
    """Frame t, RGB: a bright corner at the top left says how it lies, a bar which one it is."""
    image = np.full((*SIZE, 3), 40, np.uint8)
    image[:16, :16] = (250, 60, 60)
    image[32:, : 2 + 2 * t] = 220
    return image


def film(
    file: Path, *, form: str | None = None, codec: str = "libx264", times=None, frames: int = FRAMES
) -> Path:
    options = {"movflags": "faststart"} if file.suffix == ".mp4" else {}
    with av.open(str(file), "w", format=form, options=options) as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = GOP, 2
        for t in range(frames):
            frame = av.VideoFrame.from_ndarray(drawn(t), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[t], Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


def numbers(source) -> list[int]:
    """Which frames came out, read off their bars."""
    return [int(round((f.array()[40, :, 0] > 130).sum() / 2 - 1)) for f in source]


def check(file: Path, wanted: list[int]) -> VideoFileSource:
    """Iterating, counting and seeking agree."""
    source = VideoFileSource(file)
    assert source.length == len(wanted)
    assert numbers(source) == wanted
    frames = [f.array() for f in source]
    with seekable(VideoFileSource(file), 1.0) as video:
        assert len(video) == len(wanted)
        for t in (len(wanted) - 1, 0, len(wanted) // 2, 1, len(wanted) // 3):
            assert np.array_equal(video[t].array(), frames[t])
    return source


@pytest.fixture
def told(caplog, monkeypatch):
    monkeypatch.setattr(listing, "_told", set())
    return caplog


@pytest.mark.parametrize(
    "name, form, codec",
    [("a.mp4", None, "libx264"), ("a.h264", "h264", "libx264"), ("a.avi", None, "mpeg4"),
     ("a.ts", "mpegts", "libx264"), ("a.MKV", "matroska", "libx264")],
)  # fmt: skip
def test_every_container_gives_every_frame(tmp_path: Path, told, name, form, codec) -> None:
    source = check(film(tmp_path / name, form=form, codec=codec), list(range(FRAMES)))
    assert not source.shortfall and not told.text


@pytest.mark.parametrize("times", [[0, 1, 2, 3, 7, 8, 9, 20, 21, 25, 26, 27], range(-5, 7)])
@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_uneven_and_negative_times(tmp_path: Path, times, name) -> None:
    file = film(tmp_path / name, times=list(times), frames=12)
    before_zero = 5 if times[0] < 0 and name == "a.mp4" else 0  # which players do not show
    source = check(file, list(range(before_zero, 12)))
    shown = [t / 10 for t in list(times)[before_zero:]]
    assert [f.time for f in source] == pytest.approx([t - shown[0] for t in shown])


def _patched(file: Path, tag: bytes, change) -> Path:
    data = bytearray(file.read_bytes())
    change(data, data.index(tag) + 4)
    file.write_bytes(bytes(data))
    return file


def test_an_edit_list_cuts_the_beginning(tmp_path: Path) -> None:
    file = film(tmp_path / "a.mp4")
    scale = struct.unpack_from(">I", file.read_bytes(), file.read_bytes().index(b"mdhd") + 16)[0]

    def later(data: bytearray, place: int) -> None:
        start = struct.unpack_from(">i", data, place + 12)[0]
        struct.pack_into(">i", data, place + 12, start + scale // 2)

    check(_patched(file, b"elst", later), list(range(5, FRAMES)))


TURNS = {  # a, b, c, d of the display matrix; the picture that a viewer sees
    "none": ((1, 0, 0, 1), lambda i: i),
    "quarter": ((0, 1, -1, 0), lambda i: np.rot90(i, 3)),
    "half": ((-1, 0, 0, -1), lambda i: np.rot90(i, 2)),
    "three quarters": ((0, -1, 1, 0), lambda i: np.rot90(i)),
    "mirrored": ((-1, 0, 0, 1), lambda i: i[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda i: i[::-1]),
    "transposed": ((0, 1, 1, 0), lambda i: i.transpose(1, 0, 2)),
    "transposed back": ((0, -1, -1, 0), lambda i: i[::-1, ::-1].transpose(1, 0, 2)),
}


@pytest.mark.parametrize("turn", sorted(TURNS))
def test_phone_clips_stand_upright(tmp_path: Path, turn: str) -> None:
    (a, b, c, d), seen = TURNS[turn]
    file = film(tmp_path / "a.mp4", frames=3)
    plain = VideoFileSource(file, image_format="RGB")[1].array()

    def write(data: bytearray, place: int) -> None:  # of tkhd, version 0
        struct.pack_into(">9i", data, place + 40, *(65536 * v for v in (a, b)), 0,
                         *(65536 * v for v in (c, d)), 0, 0, 0, 1 << 30)  # fmt: skip

    _patched(file, b"tkhd", write)
    source = VideoFileSource(file, image_format="RGB")
    wanted = seen(plain)
    assert source.size == wanted.shape[:2]
    assert np.array_equal(source[1].array(), wanted)
    assert np.array_equal([f.array() for f in source][1], wanted)
    if turn == "quarter":  # what stood at the top left of the coded picture is at the top right
        assert source[0].array()[4, -4, 0] > 200
        capture = cv2.VideoCapture(str(file))
        assert capture.read()[1].shape[:2] == source.size


def test_a_stream_that_begins_between_key_frames(tmp_path: Path) -> None:
    data = film(tmp_path / "a.ts", form="mpegts").read_bytes()
    file = tmp_path / "middle.ts"
    file.write_bytes(data[len(data) // 2 // 188 * 188 :])
    source = VideoFileSource(file)
    assert source.length == len(numbers(source)) > 0
    assert numbers(source)[-1] == FRAMES - 1
    check(file, numbers(source))


def test_a_shortfall_is_a_warning(tmp_path: Path, told) -> None:
    data = film(tmp_path / "a.mp4").read_bytes()
    file = tmp_path / "cut.mp4"
    file.write_bytes(data[: len(data) - (len(data) - data.index(b"mdat")) // 3])
    source = VideoFileSource(file)
    found = numbers(source)
    assert 0 < len(found) < FRAMES and found == list(range(len(found)))
    assert f"{len(found)} of {FRAMES} frames can be decoded" in source.shortfall
    assert "cut.mp4" in told.text
    check(file, found)


def test_a_hole_does_not_end_a_video(tmp_path: Path) -> None:
    data = bytearray(film(tmp_path / "a.mp4").read_bytes())
    begin = data.index(b"mdat") + 4
    span = len(data) - begin
    data[begin + span * 4 // 10 : begin + span * 5 // 10] = bytes(span // 10)
    file = tmp_path / "hole.mp4"
    file.write_bytes(bytes(data))
    source = VideoFileSource(file)
    found = numbers(source)
    assert found[-1] == FRAMES - 1 and len(found) > FRAMES // 2
    with seekable(VideoFileSource(file), 1.0) as video:
        assert len(video) == len(found) and len([video[t] for t in range(len(video))])


@pytest.mark.parametrize(
    "content", [b"", b"hello" * 100, b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/x.ts\n"]
)
@pytest.mark.parametrize("name", ["a.mp4", "a.txt", "a.m3u8"])
def test_what_is_no_video_is_named(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: (cannot read this video|there is no video)"):
        open_source(tmp_path / name)


@pytest.mark.parametrize("name", ["12:30:00.mp4", "file:x.mp4", "%05d.mp4", "concat:a|b.mp4"])
def test_names_are_names_and_no_protocols(tmp_path: Path, monkeypatch, name: str) -> None:
    film(tmp_path / "a.mp4", frames=3).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert numbers(open_source(name)) == [0, 1, 2]
    with VideoWriter(Path("out:put") / name) as writer:
        writer.add(drawn(0))
    add_audio(Path("out:put") / name, name)
    assert numbers(open_source(Path("out:put") / name)) == [0]


@pytest.mark.parametrize("turned", [False, True])
def test_wide_pixels_stay_as_they_are_coded(tmp_path: Path, monkeypatch, turned: bool) -> None:
    """Frames and masks keep the coded size; the overlay tells players how to stretch it."""
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width = SIZE
        stream.pix_fmt, stream.sample_aspect_ratio = "yuv420p", Fraction(4, 3)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(drawn(0), format="rgb24")))
        container.mux(stream.encode())
    if turned:
        monkeypatch.setattr(video_file, "display_turn", lambda frame: (True, False, False))
    source = open_source(tmp_path / "a.mp4")
    assert source.size == (SIZE[::-1] if turned else SIZE)
    assert source.pixel_aspect == (Fraction(3, 4) if turned else Fraction(4, 3))
    mask = np.zeros(source.size, np.uint8)
    mask[5:20, 5:20] = 1
    run_demo(VideoPredictor(COPY_FIRST, device="cpu"), source, tmp_path / "o", masks=mask)
    monkeypatch.undo()
    overlay = VideoFileSource(tmp_path / "o/overlay.mp4")
    assert overlay.size[0] * source.size[1] == overlay.size[1] * source.size[0]  # enlarged
    assert overlay.pixel_aspect == source.pixel_aspect


@pytest.mark.parametrize("transfer, kind", [(16, "PQ"), (18, "HLG"), (1, None)])
def test_hdr_is_told(tmp_path: Path, told, transfer: int, kind: str | None) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width = SIZE
        stream.pix_fmt, stream.codec_context.color_trc = "yuv420p10le", transfer
        frame = av.VideoFrame.from_ndarray(drawn(0), format="rgb24")
        container.mux(stream.encode(frame.reformat(format="yuv420p10le")))
        container.mux(stream.encode())
    open_source(tmp_path / "a.mkv")
    assert (f"an HDR video ({kind})" in told.text) == (kind is not None)


def test_a_file_called_like_a_camera_is_a_file(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0").mkdir()
    Image.fromarray(drawn(0)).save(tmp_path / "0" / "a.png")
    assert isinstance(open_source("0"), FolderSource)
