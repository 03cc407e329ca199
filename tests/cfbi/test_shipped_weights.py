"""The shipped CFBI: a made clip everywhere, a DAVIS sequence where it is there."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from vis_metrics.region_boundary import mask_measures
from vis_projects.modeling.backbones.pretrained_trunk import PACKAGES
from vis_projects.video import VideoPredictor

RECORDED = 95.0  # J&F of blackswan in docs/real_video.md

pytestmark = pytest.mark.skipif(
    PACKAGES["tf_efficientnet_lite0"].file() is None, reason="pip install .[pretrained]"
)


def followed(video: object, mask: object) -> list[np.ndarray]:
    """Return the masks of object 1, uint8 (H, W) per frame."""
    predictor = VideoPredictor("zoo://cfbi_lite0", device="cpu")
    return [
        (result.label_map() == 1).cpu().numpy().astype(np.uint8)
        for result in predictor(video, masks=mask)
    ]


def test_a_thing_among_things_is_followed():
    """Two textured discs cross a textured ground; the given one is followed, not the other."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 120, (3, 160, 240, 3)).astype(np.uint8)
    ground, own, other = (cv2.GaussianBlur(n, (0, 0), 3) for n in noise)
    own[..., 2] += 120
    other[..., 0] += 120
    frames, masks = [], []
    for t in range(5):
        disc, rival = (
            cv2.circle(np.zeros((160, 240), np.uint8), centre, 30, 1, -1)
            for centre in ((70 + 8 * t, 70), (180 - 8 * t, 110))
        )
        frame = np.where(rival[..., None] > 0, other, ground)
        frames.append(np.where(disc[..., None] > 0, own, frame))
        masks.append(disc)
    for mask, truth in zip(followed(frames, masks[0]), masks):
        assert mask_measures(truth, mask)[0] > 0.85


@pytest.mark.slow
def test_blackswan_gives_the_recorded_figure(davis_root: Path):
    files = sorted((davis_root / "Annotations/480p/blackswan").glob("*.png"))
    truth = [(cv2.imread(str(f), cv2.IMREAD_GRAYSCALE) > 0).astype(np.uint8) for f in files]
    masks = followed(davis_root / "JPEGImages/480p/blackswan", truth[0])
    measures = [mask_measures(m, n) for m, n in zip(truth[1:-1], masks[1:-1])]
    assert abs(100 * np.mean(measures) - RECORDED) < 1.0
