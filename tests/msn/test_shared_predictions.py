"""Runs of one video that share a propagator decide what they decide alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from vis_projects.config import load_config
from vis_projects.modeling import FeatureCache
from vis_projects.msn.shared_predictions import SharedPredictions
from vis_projects.report.compare import compare, read_variants
from vis_projects.structures import ArraySource

CONFIG = "configs/msn/quickstart_synthetic.yaml"
TINY = (
    *("MODEL.CFBI.WIDTH", "32", "MODEL.CFBI.EMBEDDING_DIM", "16", "MODEL.CFBI.HEAD_WIDTH", "32"),
    *("MODEL.DEVICE", "cpu", "MODEL.MSN.SCORE_THRESH", "0.0", "TEST.DETECTIONS_PER_IMAGE", "3"),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "MODEL.FPN.OUT_CHANNELS", "16"),
)


def _model(*opts: str):
    torch.manual_seed(0)
    return build_model(load_config(CONFIG, [*TINY, *opts])).eval()


@pytest.fixture(scope="module")
def propagator():
    return _model().propagator


def _label(column: int, index: int = 1) -> torch.Tensor:
    label = torch.zeros(40, 56, dtype=torch.int64)
    label[10:20, column : column + 12] = index
    return label


def _drive(propagator, source, committed):
    """Predictions of a run that commits the given (label map, new ids) whatever was predicted."""
    out = []
    propagator.reset(source.size)
    for t, (label, new) in enumerate(committed):
        frame = source[t]
        if t:
            out.append(propagator.predict(frame))
        propagator.commit(label, new, frame=frame, reference=bool(new))
    return out


def test_runs_that_part_and_meet_again(propagator):
    """Runs with equal references and an equal frame before share a prediction, others do not."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (5, 40, 56, 3), dtype=np.uint8)
    source = ArraySource(frames, image_format="RGB")
    both = torch.maximum(_label(6), _label(30, 2))
    first, second = _label(4), _label(6)
    plans = [
        [(first, [1]), (second, []), (second, []), (second, []), (second, [])],
        [(first, [1]), (first, []), (second, []), (second, []), (second, [])],  # differs in 1
        [(first, [1]), (second, []), (both, [2]), (both, []), (both, [])],  # an object enters
        [(second, [1]), (second, []), (second, []), (second, []), (second, [])],  # other start
    ]
    propagator.feature_cache = None
    alone = [_drive(propagator, source, plan) for plan in plans]
    propagator.feature_cache = FeatureCache(1e9)
    shared = SharedPredictions(propagator)
    together = [_drive(shared, source, plan) for plan in plans]
    propagator.feature_cache = None
    for a, b in zip(alone, together):
        for x, y in zip(a, b, strict=True):
            assert x.ids == y.ids
            torch.testing.assert_close(x.probabilities, y.probabilities, rtol=0, atol=0)
            assert torch.equal(x.label_map, y.label_map)
    # 4 of the first; 1 after the second leaves it (frame 2); 2 of the third; 4 of the last.
    assert (shared.predicted, shared.recalled) == (11, 5)
    shared.forget()
    assert (shared.predicted, shared.recalled) == (0, 0)


def test_a_frame_without_any_object(propagator):
    source = ArraySource(np.zeros((1, 40, 56, 3), np.uint8), image_format="RGB")
    shared = SharedPredictions(propagator)
    shared.reset(source.size)
    assert shared.predict(source[0]).ids == []
    assert not shared.predict(source[0]).label_map.any()


@pytest.mark.slow
def test_comparison_finds_what_single_runs_find(tmp_path):
    """Sharing changes no track of any variant."""
    weights = tmp_path / "w.pth"
    torch.save({"model": _model().state_dict()}, weights)
    opts = [*TINY, "MODEL.WEIGHTS", str(weights), "OUTPUT_DIR", str(tmp_path)]
    opts += ["DATASETS.TEST", "('synthetic_val:videos=1:length=3:size=48x64',)"]
    variants = read_variants("configs/msn/compare/switches.yaml")

    def files() -> dict[str, str]:
        found = (tmp_path / "compare").rglob("results.json")
        return {f.parents[1].name: f.read_text() for f in found}

    rows = compare(CONFIG, variants, opts, samples=20)
    assert [r.variant for r in rows] == list(variants)
    together = files()
    assert len(together) == len(variants) and len(set(together.values())) > 3
    for name in ("full pipeline", "selection: oracle", "backward only", "detections linked by IoU"):
        compare(CONFIG, {name: variants[name]}, opts, samples=20)
    assert files() == together
