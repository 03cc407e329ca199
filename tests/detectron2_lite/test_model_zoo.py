"""The model zoo: recorded configs and addresses; loading without a network."""

from __future__ import annotations

import json
import os

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.modeling import GeneralizedRCNN

CONFIGS = (
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml",
    "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x.yaml",
    "COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x.yaml",
    "Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml",
)


def flat(node, prefix=""):
    for key, value in node.items():
        if hasattr(value, "items"):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def plain(value):
    return [plain(x) for x in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_as_recorded(golden, name):
    recorded = json.loads(
        golden(f"detectron2/config_{os.path.basename(name)[:-5]}.json").read_text()
    )
    default = dict(flat(get_cfg()))
    changed = {
        key: plain(value)
        for key, value in flat(model_zoo.get_config(name))
        if plain(value) != plain(default[key])
    }
    assert changed == recorded


def test_urls_as_recorded(golden):
    recorded = json.loads(golden("detectron2/model_zoo_urls.json").read_text())
    assert {name: model_zoo.get_checkpoint_url(name) for name in recorded} == recorded
    name = CONFIGS[0]
    trained = model_zoo.get_config(name, trained=True)
    weights = trained.MODEL.WEIGHTS
    assert weights == recorded[name]


@pytest.mark.lite
def test_unknown_names():
    with pytest.raises(RuntimeError, match="no trained weights"):
        model_zoo.get_checkpoint_url("COCO-Detection/retinanet_R_50_FPN_3x.yaml")
    with pytest.raises(RuntimeError, match="cascade_mask_rcnn_R_50_FPN_3x.yaml"):
        model_zoo.get_config_file("COCO-Detection/retinanet_R_50_FPN_3x.yaml")
    assert os.path.isfile(model_zoo.get_config_file(CONFIGS[3]))


@pytest.mark.parametrize("trained", [True, False])
def test_get_builds_and_loads(monkeypatch, trained):
    from detectron2.model_zoo import model_zoo as module

    loaded = []

    class Checkpointer:
        def __init__(self, model):
            self.model = model

        def load(self, path):
            loaded.append(path)

    monkeypatch.setattr(module, "DetectionCheckpointer", Checkpointer)
    with torch.device("meta"):
        model = model_zoo.get(CONFIGS[0], trained=trained, device="meta")
    assert isinstance(model, GeneralizedRCNN) and model.device.type == "meta"
    assert loaded[0].endswith("model_final_f10217.pkl" if trained else "MSRA/R-50.pkl")
