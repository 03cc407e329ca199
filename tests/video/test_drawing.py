"""Overlays: captions that can be read and hide nothing, at every size; videos for browsers."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from vis_projects.structures import Frame, FrameResult
from vis_projects.structures.palette import id_colour
from vis_projects.video import OverlayPainter, VideoWriter, draw_label_map, side_by_side
from vis_projects.video.captions import (
    CaptionPlacer,
    boxes_of,
    contrast,
    font_size,
    luminance,
    text_colours,
)
from vis_projects.video.writing import add_audio

NAMES = ("person", "giant panda", "skateboard", "cow")


def discs(rows: int, count: int, seed: int, radius: float = 0.1) -> torch.Tensor:
    """Discs that may overlap: bool masks (count, rows, 16/9 rows)."""
    rng = np.random.default_rng(seed)
    columns = rows * 16 // 9
    y, x = np.mgrid[:rows, :columns]
    masks = []
    for _ in range(count):
        cy, cx = rng.uniform(0.1, 0.9, 2) * (rows, columns)
        masks.append((y - cy) ** 2 + (x - cx) ** 2 < (rng.uniform(0.5, 1.5) * radius * rows) ** 2)
    return torch.from_numpy(np.stack(masks))


def overlap(a, b) -> int:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


@pytest.mark.parametrize("rows", [360, 720, 2160])
@pytest.mark.parametrize("count", [3, 10])
def test_captions_cover_neither_objects_nor_each_other(rows: int, count: int) -> None:
    covered = []
    for seed in range(3):
        result = FrameResult.build(discs(rows, count, seed), torch.arange(1, count + 1))
        labels = result.label_map().numpy()
        ids = boxes_of(labels)
        texts = {i: f"{NAMES[i % 4]} {i} 87%" for i in ids}
        placed = CaptionPlacer().place(labels, texts, {i: id_colour(i) for i in ids})
        assert len(placed) == len(ids)
        for k, caption in enumerate(placed):
            left, top, right, bottom = caption.rect
            assert 0 <= left < right <= labels.shape[1] and 0 <= top < bottom <= rows
            assert bottom - top >= max(13, rows / 30)  # readable
            covered.append((labels[top:bottom, left:right] > 0).mean())
            assert not any(overlap(caption.rect, other.rect) for other in placed[:k])
    assert np.mean(covered) < 0.02
    assert np.max(covered) < 0.25


def test_captions_stay_where_they_are(monkeypatch) -> None:
    masks = discs(480, 5, seed=1)
    placer = CaptionPlacer()
    places = []
    for t in range(4):
        moved = torch.roll(masks, (t, 2 * t), (1, 2))
        labels = FrameResult.build(moved, torch.arange(1, 6)).label_map().numpy()
        texts = {i: f"cow {i}" for i in boxes_of(labels)}
        placed = placer.place(labels, texts, {i: id_colour(i) for i in texts})
        places.append({c.text: c.rect for c in placed})
    for before, after in pairwise(places):
        for text in before.keys() & after.keys():
            assert np.abs(np.subtract(before[text], after[text])).max() < 3 * font_size(480)


def test_a_crowd_leaves_captions_out_instead_of_piling_them() -> None:
    labels = np.arange(1, 401).repeat(32).reshape(20, 640).repeat(16, 0)
    texts = {i: f"giant panda {i} 50%" for i in range(1, 401)}
    placed = CaptionPlacer().place(labels, texts, {i: id_colour(i) for i in texts})
    assert 10 < len(placed) < 400
    boxes = [c.rect for c in placed]
    assert not any(overlap(a, b) for k, a in enumerate(boxes) for b in boxes[:k])


def test_every_colour_has_readable_text() -> None:
    for i in range(1, 300):
        text, background = text_colours(id_colour(i))
        pair = sorted((luminance(text), luminance(background)))
        assert contrast(pair[1], pair[0]) >= 4.5  # WCAG 2.1, AA


def test_neighbouring_ids_differ() -> None:
    colours = np.array([id_colour(i) for i in range(1, 60)], int)
    assert np.abs(np.diff(colours, axis=0)).sum(1).min() > 100
    assert len(np.unique(colours, axis=0)) == len(colours)


def test_small_frames_are_enlarged_and_objects_keep_their_colour() -> None:
    masks = torch.zeros(2, 96, 160, dtype=torch.bool)
    masks[0, 20:60, 20:60] = True
    masks[1, 70:90, 100:150] = True
    result = FrameResult.build(masks, torch.tensor([4, 9]))
    painter = OverlayPainter("RGB", NAMES, alpha=1.0)
    image = painter.draw(Frame(torch.zeros(3, 96, 160, dtype=torch.uint8)), result)
    assert image.shape == (480, 800, 3)
    assert tuple(image[200, 200]) == id_colour(4)
    assert tuple(image[400, 625]) == id_colour(9)
    assert (image[470, 10] == 0).all()
    assert painter.captions(result) == {4: "person 4", 9: "person 9"}


def test_contours_are_seen_on_their_own_colour() -> None:
    colour = np.array(id_colour(1), np.uint8)
    image = np.broadcast_to(colour, (480, 640, 3)).copy()
    labels = np.zeros((480, 640), np.int64)
    labels[100:300, 100:300] = 1
    drawn = draw_label_map(image, labels)
    assert (drawn.sum(2) < 100).sum() > 4 * 200  # the dark line around


def test_boxes_trails_and_ids_are_options() -> None:
    frame = Frame(torch.full((3, 480, 640), 120, dtype=torch.uint8))
    painter = OverlayPainter("RGB", NAMES, boxes=True, trails=5, ids_only=True)
    for t in range(3):
        masks = torch.zeros(1, 480, 640, dtype=torch.bool)
        y, x = np.ogrid[:480, :640]
        masks[0] = torch.from_numpy((y - 240) ** 2 + (x - 200 - 60 * t) ** 2 < 80**2)
        result = FrameResult.build(masks, torch.tensor([5]), scores=torch.tensor([0.5]))
        image = painter.draw(frame, result)
    assert painter.captions(result) == {5: "5"}
    assert tuple(image[240 - 79, 320 - 79]) == id_colour(5)  # the corner of the box
    assert tuple(image[240, 240]) == id_colour(5)  # the way since the first frame


def test_boxes_do_not_cross_captions(monkeypatch) -> None:
    """The box of object 2 runs through the caption above object 1; the text stays as it was."""
    masks = torch.zeros(2, 480, 640, dtype=torch.bool)
    masks[0, 240:400, 100:300] = True
    masks[1, 60:70, 130:140] = masks[1, 440:450, 330:340] = True
    result = FrameResult.build(masks, torch.tensor([1, 2]), index=0)
    frame = Frame(torch.full((3, 480, 640), 120, dtype=torch.uint8))
    placed: list = []

    def remember(self, *args):
        placed[:] = place(self, *args)
        return placed

    place = CaptionPlacer.place
    monkeypatch.setattr(CaptionPlacer, "place", remember)
    plain = OverlayPainter("RGB", NAMES).draw(frame, result)
    boxed = OverlayPainter("RGB", NAMES, boxes=True).draw(frame, result)
    assert not np.array_equal(plain, boxed) and len(placed) == 2
    crossed = [c for c in placed if c.rect[0] < 130 < c.rect[2] and 60 < c.rect[1] < 440]
    assert crossed
    for caption in placed:
        left, top, right, bottom = caption.rect
        inside = np.s_[top + 3 : bottom - 3, left + 3 : right - 3]  # its corners are round
        assert np.array_equal(plain[inside], boxed[inside])


def test_overlays_play_in_a_browser(tmp_path: Path) -> None:
    file = tmp_path / "o.mp4"
    times = [0.0, 0.04, 0.5, 0.54, 2.0]
    with VideoWriter(file, fps=25) as writer:
        for time in times:
            writer.add(np.full((481, 641, 3), 99, np.uint8), time)
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert (stream.height, stream.width) == (480, 640)
        shown = [float(f.pts * f.time_base) for f in container.decode(stream)]
    assert shown == pytest.approx(times, abs=1e-3)
    data = file.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # faststart


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_sound_is_kept_when_asked(tmp_path: Path, codec: str) -> None:
    source, file = tmp_path / ("in.mkv"), tmp_path / "o.mp4"
    with av.open(str(source), "w") as out:
        stream = out.add_stream(codec, rate=16000, layout="mono")
        for k in range(32):
            samples = (8000 * np.sin(np.arange(1024) + 1024 * k)).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16000, 1024 * k
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    with VideoWriter(file, fps=10) as writer:
        for _ in range(10):
            writer.add(np.zeros((48, 64, 3), np.uint8))
    assert add_audio(file, source)
    with av.open(str(file)) as container:
        assert len(container.streams.audio) == 1
        heard = sum(f.samples for f in container.decode(container.streams.audio[0]))
    assert 0.8 < heard / 16000 < 1.3  # it ends with the picture
    with av.open(str(file)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 10
    assert not add_audio(file, tmp_path / "silent.mp4") if _silent(tmp_path) else True
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mkv", "o.mp4", "silent.mp4"]


def _silent(folder: Path) -> bool:
    with VideoWriter(folder / "silent.mp4") as writer:
        writer.add(np.zeros((48, 64, 3), np.uint8))
    return True


def test_two_pictures_under_their_titles() -> None:
    left, right = (np.full((480, 640, 3), v, np.uint8) for v in (50, 200))
    picture = side_by_side(left, right, ("prediction", "ground truth"))
    assert picture.shape[0] > 480 and picture.shape[1] > 1280
    assert (picture[-1, 0] == 50).all() and (picture[-1, -1] == 200).all()
    assert (picture[: picture.shape[0] - 480] < 128).any()  # something is written
