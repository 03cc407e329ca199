"""The configs: initial weights, schedule, every row of the tables, mistakes."""

from __future__ import annotations

import json

import pytest
import torch
from detectron2.modeling import build_model

from vis_projects.config import config_root, load_config, shipped_configs
from vis_projects.data.train_loader import build_clip_dataset
from vis_projects.engine.solver import build_lr_scheduler
from vis_projects.srnet import SRNet
from vis_projects.structures import InputError
from vis_projects.weights.own_weights import own_weights_later

QUICKSTART = "configs/srnet/quickstart_synthetic.yaml"


@pytest.mark.parametrize("depth", [50, 101])
def test_coco_weights_fit_by_key(golden, depth):
    """Every backbone and FPN tensor of Detectron2's Mask R-CNN has its place, with its shape."""
    file = golden(f"detectron2/state_mask_rcnn_R_{depth}_FPN_3x.json")
    entries = json.loads(file.read_text())["shapes"]
    wanted = {k: tuple(s) for k, s in entries.items() if k.startswith("backbone.")}
    assert len(wanted) == {50: 281, 101: 536}[depth]
    with torch.device("meta"):
        cfg = load_config(f"configs/srnet/R{depth}_davis2019.yaml", ["MODEL.DEVICE", "meta"])
        model = build_model(cfg)
    ours = {k: tuple(v.shape) for k, v in model.state_dict().items() if k.startswith("backbone.")}
    assert ours == wanted
    new = {k for k in model.state_dict() if not k.startswith("backbone.")}
    assert all(k.startswith(("decoder.block", "heads.")) for k in new)
    names = {
        f"decoder.block{b}.{p}"
        for b in range(1, 5)
        for p in ("conv.weight", "norm.weight", "norm.bias")
    }
    names |= {
        f"heads.{h}.{part}.{p}"
        for h in ("offset", "bandwidth", "tracking", "objectness")
        for part in ("conv", "out")
        for p in ("weight", "bias")
    }
    assert new == names


def test_schedule_of_the_paper():
    cfg = load_config("configs/srnet/R101_davis2019.yaml")
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=cfg.SOLVER.BASE_LR)
    multiplier = build_lr_scheduler(cfg, optimizer)._multiplier
    for k, rate in ((0, 1e-3), (59_999, 1e-3), (110_000, 1e-4), (160_000, 1e-5)):
        assert cfg.SOLVER.BASE_LR * multiplier(k / 160_000) == pytest.approx(rate, rel=1e-6)


CONFIGS = [str(f.relative_to(config_root())) for f in shipped_configs("srnet")]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_builds(name):
    with torch.device("meta"), own_weights_later():
        model = build_model(load_config(name, ["MODEL.DEVICE", "meta"]))
    assert isinstance(model, SRNet)


@pytest.mark.parametrize("row", ["no_heatmap", "no_temporal", "box_iou", "paper_literal"])
def test_rows_of_the_test_alone_test_the_trained_model(row):
    trained = load_config("configs/srnet/R101_davis2019.yaml")
    cfg = load_config(f"configs/srnet/ablations/{row}_davis2019.yaml")
    made = f"{trained.OUTPUT_DIR}/model_final.pth"
    assert made == cfg.MODEL.WEIGHTS
    assert cfg.DATASETS.TEST == trained.DATASETS.TEST
    with pytest.raises(InputError, match="nothing to train on"):
        build_clip_dataset(cfg)


@pytest.mark.parametrize("dataset", ["davis2019", "ytvis2019"])
def test_paper_literal_training(dataset):
    """Chosen departures off; all else, the architecture included, as in the main config."""
    ours = load_config(f"configs/srnet/R101_{dataset}.yaml")
    literal = load_config(f"configs/srnet/R101_literal_{dataset}.yaml")
    srnet = literal.MODEL.SRNET
    assert srnet.IGNORE_BACKGROUND_OF == () and srnet.FIRST_FRAME_PROB == 0
    assert srnet.HEATMAP_JITTER == srnet.HEATMAP_DROP == srnet.HEATMAP_DUPLICATE == 0
    assert (srnet.TEST.MIN_AREA, srnet.TEST.MIN_FREE, srnet.TEST.GATE) == (1, 0.0, "none")
    assert set(literal.DATASETS.MAX_GAPS) == {1}
    assert literal.DATASETS.TRAIN == ours.DATASETS.TRAIN
    assert literal.SOLVER.BASE_LR == ours.SOLVER.BASE_LR


@pytest.mark.parametrize(
    "opts, message",
    [
        (
            ("MODEL.SRNET.EXTRA_DIMS", "2", "MODEL.SRNET.EXTRA_BANDWIDTH", "(0.3,)"),
            "EXTRA_BANDWIDTH has 1 values",
        ),
        (("MODEL.SRNET.TEST.LINK", "colour"), "MODEL.SRNET.TEST.LINK 'colour' is unknown"),
        (
            (
                *("MODEL.SRNET.TEST.SAME_CLASS", "True", "MODEL.SRNET.NUM_CLASSES", "0"),
                *("DATASETS.CLASS_AGNOSTIC", "True"),
            ),
            "SAME_CLASS True needs a category head",
        ),
        (("MODEL.SRNET.LEVEL_NORM", "BN"), "MODEL.SRNET.LEVEL_NORM 'BN' is unknown"),
        (("MODEL.SRNET.TEST.TRACK_SCORE", "x"), "TRACK_SCORE 'x' is unknown"),
        (("MODEL.FPN.IN_FEATURES", "['res3', 'res4', 'res5']"), "gives no p2"),
    ],
)
def test_bad_options_are_named(opts, message):
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        build_model(load_config(QUICKSTART, list(opts)))
