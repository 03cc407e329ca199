"""The shipped class-agnostic SRNet, by itself and by the consensus of a video: a made clip
everywhere, a DAVIS sequence where it is there."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vis_metrics.region_boundary import mask_measures
from vis_projects.modeling.backbones.pretrained_trunk import PACKAGES
from vis_projects.structures import VideoResult, decode_mask
from vis_projects.video import VideoPredictor

# J&F of blackswan in docs/real_video.md
RECORDED = {"zoo://uvos_lite0": 39.2, "configs/consensus_voting/lite0.yaml": 39.3}

pytestmark = pytest.mark.skipif(
    PACKAGES["tf_efficientnet_lite0"].file() is None, reason="pip install .[pretrained]"
)


def foreground(result: VideoResult, above: float) -> list[np.ndarray]:
    """Return the union of the tracks above a score, one mask uint8 (H, W) per frame."""
    union = np.zeros((result.length, *result.size), np.uint8)
    for track in result.tracks:
        for t, rle in enumerate(track.masks):
            if track.score >= above and rle is not None:
                union[t] |= decode_mask(rle).astype(np.uint8)
    return list(union)


def found(system: str, video: object) -> list[np.ndarray]:
    predictor = VideoPredictor(system, device="cpu")
    for _ in predictor(video):
        pass
    return foreground(predictor.video_result, predictor.cfg.TEST.FOREGROUND_THRESH)


@pytest.mark.parametrize("system", RECORDED)
def test_a_thing_before_a_ground_is_found(system):
    rng = np.random.default_rng(0)
    ground = cv2.GaussianBlur(rng.integers(60, 130, (120, 200, 3)).astype(np.uint8), (0, 0), 6)
    frames, masks = [], []
    for t in range(3):
        disc = cv2.circle(np.zeros((120, 200), np.uint8), (90 + 4 * t, 60), 30, 1, -1)
        frames.append(np.where(disc[..., None] > 0, np.uint8([20, 40, 220]), ground))
        masks.append(disc)
    for mask, truth in zip(found(system, frames), masks):
        assert mask_measures(truth, mask)[0] > 0.6


@pytest.mark.slow
@pytest.mark.parametrize("system", RECORDED)
def test_blackswan_gives_the_recorded_figure(system, davis_root):
    files = sorted((davis_root / "Annotations/480p/blackswan").glob("*.png"))
    truth = [(cv2.imread(str(f), cv2.IMREAD_GRAYSCALE) > 0).astype(np.uint8) for f in files]
    masks = found(system, davis_root / "JPEGImages/480p/blackswan")
    measures = [mask_measures(m, n) for m, n in zip(truth[1:-1], masks[1:-1])]
    assert abs(100 * np.mean(measures) - RECORDED[system]) < 1.0
