"""Caffe2 names as recorded, the background class, matching of names by their ends."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import (
    align_and_update_state_dicts,
    convert_basic_c2_names,
    convert_c2_detectron_names,
)
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone
from torch import nn


def test_names_as_recorded(golden):
    recorded = json.loads(golden("detectron2/c2_names.json").read_text())
    weights = {name: torch.zeros(5, 1) for name in recorded}
    converted, original = convert_c2_detectron_names(weights)
    assert set(converted) == set(original)
    assert {old: new for new, old in original.items()} == recorded
    basic = dict(zip(recorded, convert_basic_c2_names(list(recorded))))
    for name in ("conv1_w", "res_conv1_bn_s", "res2_0_branch1_w", "res5_2_branch2c_bn_b"):
        assert basic[name] == recorded[name]


def test_background_moves_from_first_to_last():
    rows = torch.arange(12.0).view(12, 1)
    weights = {
        "cls_score_w": rows[:3],
        "cls_score_b": rows[:3, 0],
        "bbox_pred_w": rows,
        "bbox_pred_b": rows[:, 0],
        "mask_fcn_logits_w": rows[:3].view(3, 1, 1, 1),
        "mask_fcn_logits_b": rows[:3, 0],
    }
    out, _ = convert_c2_detectron_names(weights)
    assert out["cls_score.weight"][:, 0].tolist() == [1, 2, 0]
    assert out["cls_score.bias"].tolist() == [1, 2, 0]
    assert out["bbox_pred.weight"][:, 0].tolist() == list(range(4, 12))
    assert out["bbox_pred.bias"].tolist() == list(range(4, 12))
    assert out["mask_head.predictor.weight"].flatten().tolist() == [1, 2]
    assert out["mask_head.predictor.bias"].tolist() == [1, 2]


def test_matching_by_ends(caplog):
    model = {
        "backbone.stem.conv1.weight": torch.zeros(2),
        "backbone.res2.conv1.weight": torch.zeros(2),
        "head.fc.bias": torch.zeros(3),
        "scale": torch.zeros(1),
        "unscale": torch.zeros(1),
    }
    checkpoint = {
        "stem.conv1.weight": torch.ones(2),
        "res2.conv1.weight": torch.full((2,), 2.0),
        "conv1.weight": torch.full((2,), 3.0),  # shorter than both: unused
        "fc.bias": torch.ones(4),  # another shape
        "scale": torch.ones(1),
        "nobody": torch.ones(1),
    }
    out = align_and_update_state_dicts(model, checkpoint, c2_conversion=False)
    assert out["backbone.stem.conv1.weight"][0] == 1 and out["backbone.res2.conv1.weight"][0] == 2
    assert out["scale"][0] == 1 and "unscale" not in out
    assert "head.fc.bias" not in out and "nobody" in out and "conv1.weight" in out
    assert "not loaded" in caplog.text


@pytest.mark.lite
def test_ambiguous_names():
    model = {"a.conv.weight": torch.zeros(2), "b.conv.weight": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"conv.weight.*a\.conv\.weight.*b\.conv\.weight"):
        align_and_update_state_dicts(model, {"conv.weight": torch.zeros(2)}, c2_conversion=False)
    with pytest.raises(ValueError, match="both"):
        convert_c2_detectron_names({"fc6_w": torch.zeros(1), "fc6_s": torch.zeros(1)})


def test_pickled_caffe2_backbone_loads(golden, tmp_path):
    """A file in the old format, its statistics folded: every convolution arrives."""
    cfg = get_cfg()
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2"]
    model = nn.ModuleDict({"backbone": build_backbone(cfg)})
    recorded = json.loads(golden("detectron2/c2_names.json").read_text())
    state = model.state_dict()
    rng = np.random.default_rng(0)
    blobs = {
        old: rng.standard_normal(state[f"backbone.{new}"].shape).astype(np.float32)
        for old, new in recorded.items()
        if f"backbone.{new}" in state
    }
    blobs["conv1_w_momentum"] = np.zeros(3, np.float32)
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    DetectionCheckpointer(model).load(str(path))
    loaded = model.state_dict()
    for old, value in blobs.items():
        if old in recorded:
            np.testing.assert_array_equal(loaded[f"backbone.{recorded[old]}"], value)
    norms = [m for m in model.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert all((m.running_mean == 0).all() and (m.running_var == 1).all() for m in norms)
    weights = [k for k in state if k.endswith("weight")]
    assert len(weights) == sum(k.endswith(("_w", "_s")) for k in blobs)
