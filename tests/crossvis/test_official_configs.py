"""Config files as the authors have them: their option names, their kinds of norm."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model

from vis_projects.config import load_config
from vis_projects.crossvis.fcos_head import FCOSHead
from vis_projects.structures import InputError

# The option names of the released file for R-50, 360 x 640, with a value for each.
RELEASED = """
MODEL:
  META_ARCHITECTURE: "CrossVIS"
  MASK_ON: True
  WEIGHTS: "CondInst_MS_R_50_1x.pth"
  CROSSVIS_ON: True
  CROSSVIS:
    CROSSOVER:
      SAMPLE_REGION: {reach}
  BACKBONE:
    NAME: "build_fcos_resnet_fpn_backbone"
  RESNETS:
    OUT_FEATURES: ["res3", "res4", "res5"]
  FPN:
    IN_FEATURES: ["res3", "res4", "res5"]
  PROPOSAL_GENERATOR:
    NAME: "FCOS"
  FCOS:
    NUM_CLASSES: 40
    NORM: {norm}
    USE_DEFORMABLE: False
    USE_RELU: True
    INFERENCE_TH_TRAIN: 0.05
    INFERENCE_TH_TEST: 0.05
    PRE_NMS_TOPK_TRAIN: 1000
    POST_NMS_TOPK_TRAIN: 100
    YIELD_PROPOSAL: False
    YIELD_BOX_FEATURES: False
  CONDINST:
    MAX_PROPOSALS: 500
  BOXINST:
    ENABLED: False
    BOTTOM_PIXELS_REMOVED: 10
    PAIRWISE:
      SIZE: 3
      DILATION: 2
      WARMUP_ITERS: 10000
      COLOR_THRESH: 0.3
DATASETS:
  TRAIN: ("ytvis_2019_train",)
  TEST: ("ytvis_2019_val",)
INPUT:
  HFLIP_TRAIN: {flip}
  MIN_SIZE_TRAIN: (360,)
  MAX_SIZE_TRAIN: 640
  MIN_SIZE_TEST: 360
  MAX_SIZE_TEST: 640
SOLVER:
  IMS_PER_BATCH: 16
  BASE_LR: 0.005
  STEPS: (15000, 21000)
  MAX_ITER: 23000
VERSION: 2
"""


def written(tmp_path, **values: object) -> str:
    file = tmp_path / "R_50_1x.yaml"
    file.write_text(RELEASED.format(**{"reach": 20, "norm": "GN", "flip": True, **values}))
    return str(file)


def test_the_released_file_is_our_config(tmp_path):
    theirs = load_config(written(tmp_path))
    ours = load_config("configs/crossvis/R50_1x_ytvis2019.yaml")
    for node in (
        "MODEL.FCOS",
        "MODEL.CONDINST",
        "MODEL.CROSSVIS",
        "MODEL.BACKBONE",
        "INPUT.SAMPLER",
    ):
        a, b = theirs, ours
        for name in node.split("."):
            a, b = a[name], b[name]
        assert a == b, node
    assert theirs.SOLVER.STEPS == ours.SOLVER.STEPS
    with torch.device("meta"):
        build_model(load_config(written(tmp_path), ["MODEL.DEVICE", "meta"]))


def test_names_are_translated(tmp_path):
    cfg = load_config(written(tmp_path, reach=-1, flip=False))
    assert cfg.INPUT.SAMPLER.RANGE == 0 and cfg.INPUT.AUGMENTATIONS.FLIP_PROB == 0.0
    opts = ["MODEL.CROSSVIS.CROSSOVER.SAMPLE_REGION", "5", "INPUT.HFLIP_TRAIN", "True"]
    cfg = load_config(written(tmp_path, flip=False), opts)
    assert cfg.INPUT.SAMPLER.RANGE == 5 and cfg.INPUT.AUGMENTATIONS.FLIP_PROB == 0.5
    child = tmp_path / "child.yaml"
    child.write_text("_BASE_: R_50_1x.yaml\nINPUT:\n  SAMPLER:\n    RANGE: 7\n")
    assert load_config(str(child)).INPUT.SAMPLER.RANGE == 7


@pytest.mark.parametrize(
    "key, value", [("MODEL.FCOS.USE_DEFORMABLE", "True"), ("MODEL.BOXINST.ENABLED", "True")]
)
def test_what_is_not_provided_is_refused(tmp_path, key, value):
    with pytest.raises(InputError, match=f"{key} True is not provided"):
        load_config(written(tmp_path), [key, value])
    file = tmp_path / "more.yaml"
    sections = key.split(".")
    lines = [f"{'  ' * k}{name}:" for k, name in enumerate(sections)]
    file.write_text("_BASE_: R_50_1x.yaml\n" + "\n".join(lines) + f" {value}\n")
    with pytest.raises(InputError, match=f"more.yaml: {key}"):
        load_config(str(file))


def head(norm: str) -> FCOSHead:
    torch.manual_seed(0)
    return FCOSHead(
        in_channels=32, num_levels=2, num_classes=3, num_cls_convs=1, num_box_convs=1, norm=norm
    )


def test_kinds_of_norm():
    """GN and NaiveGN are one; none leaves it out; BN and SyncBN have a layer for each level."""
    group, naive, none = head("GN").state_dict(), head("NaiveGN").state_dict(), head("none")
    assert group.keys() == naive.keys()
    assert none.state_dict().keys() == head("").state_dict().keys()
    for name in ("BN", "SyncBN"):
        keys = head(name).state_dict()
        for tower in ("cls", "bbox", "reid"):
            for level in (0, 1):
                assert f"{tower}_tower.1.{level}.running_mean" in keys
    with pytest.raises(InputError, match="MODEL.FCOS.NORM 'XN' is unknown"):
        head("XN")


def test_each_level_has_its_own_statistics():
    model = head("BN").train()
    torch.manual_seed(1)
    quiet, loud = torch.randn(2, 32, 16, 16), 5 + 3 * torch.randn(2, 32, 8, 8)
    model([quiet, loud])
    first, second = model.cls_tower[1]
    assert not torch.allclose(first.running_var, second.running_var)
    assert first.num_batches_tracked == second.num_batches_tracked == 1
    # What a level becomes does not depend on the others.
    torch.testing.assert_close(model([quiet, loud]).logits[0], model([quiet, quiet]).logits[0])
