"""The dead-leaves videos that a trunk is trained on."""

from __future__ import annotations

import numpy as np
import pytest

from vis_projects.data import load_videos
from vis_projects.frtm.leaves import LARGE, LENGTH, SIZE, LeafScene


@pytest.mark.parametrize(
    "name, size", [("dead_leaves_val", SIZE), ("dead_leaves_large_val", LARGE)]
)
def test_a_video_is_rendered_at_its_size_and_follows_from_its_seed(name, size):
    video = load_videos(name)[0]
    source = video["source"]("RGB")
    assert (source.size, source.length) == (size, LENGTH)
    frame, labels = source.read(3), video["annotations"].label_map(3)
    assert frame.shape == (*size, 3) and labels.shape == size
    assert set(np.unique(labels)) <= {0, *(o["id"] for o in video["objects"])}
    again = LeafScene(50_000_000, size)
    np.testing.assert_array_equal(again.frame(3)[..., ::-1], frame)
    np.testing.assert_array_equal(again.label_map(3), labels)


def test_objects_of_the_large_set_cover_the_same_share_of_the_frame():
    small, large = (
        np.mean([(LeafScene(seed, size).label_map(0) > 0).mean() for seed in range(3)])
        for size in (SIZE, LARGE)
    )
    assert large == pytest.approx(small, rel=0.5)
