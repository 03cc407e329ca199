"""The dead-leaves videos that a trunk is trained on."""

from __future__ import annotations

import numpy as np

from vis_projects.data import load_videos
from vis_projects.data.synthetic.dead_leaves import LENGTH, SIZE, LeafScene


def test_a_video_follows_from_its_seed():
    video = load_videos("dead_leaves_val")[0]
    source = video["source"]("RGB")
    assert (source.size, source.length) == (SIZE, LENGTH)
    frame, labels = source.read(3), video["annotations"].label_map(3)
    assert frame.shape == (*SIZE, 3) and labels.shape == SIZE
    assert set(np.unique(labels)) <= {0, *(o["id"] for o in video["objects"])}
    again = LeafScene(50_000_000)
    np.testing.assert_array_equal(again.frame(3)[..., ::-1], frame)
    np.testing.assert_array_equal(again.label_map(3), labels)


def test_a_scene_scales_with_its_size():
    small, large = (
        np.mean([(LeafScene(seed, size).label_map(0) > 0).mean() for seed in range(3)])
        for size in ((96, 160), SIZE)
    )
    assert 0.5 * small < large < 2 * small
