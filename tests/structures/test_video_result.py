"""Frame results become tracks; tracks become label maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vis_projects.structures import (
    FrameResult,
    Track,
    TrackRecorder,
    VideoInfo,
    VideoResult,
    encode_masks,
)


def rle(mask: np.ndarray):
    return encode_masks(mask[None])[0]


def three_tracks() -> VideoResult:
    masks = np.zeros((3, 2, 4, 4), bool)
    masks[0, :, :2] = True
    masks[1, :, 1:3] = True
    masks[2, 1, 3] = True
    tracks = [
        Track(i + 1, {0: 0.5 + 0.1 * i}, [rle(m) if m.any() else None for m in masks[i]])
        for i in range(3)
    ]
    return VideoResult(tracks, (4, 4), 2)


def test_later_tracks_lie_on_top() -> None:
    maps = list(three_tracks().label_maps())
    assert maps[0][1, 0] == 2
    assert maps[0][0, 0] == 1
    assert maps[1][3, 0] == 3
    assert maps[0].dtype == np.uint8


def test_max_ids_keeps_the_most_present_tracks() -> None:
    result = three_tracks()
    for track in result.tracks:
        track.id += 10
    maps = np.stack(list(result.label_maps(2)))
    assert set(np.unique(maps)) == {0, 1, 2}  # renumbered: 11 and 12 exceed the limit
    assert maps[1][3, 0] == 0  # the track seen once is gone


def test_threshold_leaves_tracks_out() -> None:
    assert not np.stack(list(three_tracks().foreground(0.9))).any()
    assert np.stack(list(three_tracks().foreground(0.65)))[1, 3].all()


def test_recorder_collects_tracks_in_time() -> None:
    recorder = TrackRecorder(VideoInfo((4, 4), None))
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, 0] = True
    ids = torch.tensor([4, 2])
    for t in range(12):
        scores = torch.tensor([0.5 + 0.01 * t, 0.9])
        recorder.add(FrameResult.build(masks, ids, scores=scores, index=t))
    result = recorder.finish()
    assert [t.id for t in result.tracks] == [4]  # id 2 was never visible
    assert result.length == 12
    assert result.tracks[0].score == pytest.approx(0.5 + 0.01 * 5.5)


def test_recorder_raises_what_the_encoder_met() -> None:
    recorder = TrackRecorder(VideoInfo((4, 4), 1))
    broken = FrameResult.build(torch.ones(2, 4, 4, dtype=torch.bool), torch.tensor([1, 2]))
    broken.instances._fields["pred_ids"] = torch.tensor([[1], [2]])
    recorder.add(broken)
    with pytest.raises(TypeError):
        recorder.finish()


def test_endless_streams_keep_nothing() -> None:
    recorder = TrackRecorder(VideoInfo((4, 4), None, keep_results=False))
    recorder.add(FrameResult.build(torch.ones(1, 4, 4, dtype=torch.bool), torch.tensor([1])))
    assert recorder.finish().tracks == []


def test_frames_give_back_what_was_recorded() -> None:
    frames = list(three_tracks().frames())
    assert [len(f) for f in frames] == [2, 3]
    assert frames[1].label_map()[3].tolist() == [3] * 4


def test_the_better_score_lies_on_top_whatever_the_order() -> None:
    whole = np.ones((4, 4), bool)
    best_first = VideoResult(
        [Track(1, {0: 0.9}, [rle(whole)]), Track(2, {0: 0.25}, [rle(whole)])], (4, 4), 1
    )
    assert (next(best_first.label_maps()) == 1).all()
    (frame,) = best_first.frames()
    assert (frame.label_map() == 1).all()
    assert (best_first.to_labels() == 1).all()


def test_the_first_frames_of_a_result() -> None:
    cut = three_tracks().first(1)
    assert cut.length == 1
    assert [t.id for t in cut.tracks] == [1, 2]  # the third is first seen in frame 1
    assert all(len(t.masks) == 1 for t in cut.tracks)
