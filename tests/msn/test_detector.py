"""The detector: official layout, cascade against a slow one, training, options, configs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from vis_projects.config import load_config, shipped_configs
from vis_projects.msn.cascade import class_box
from vis_projects.msn.convert import convert, detector_name
from vis_projects.structures import InputError
from vis_projects.weights.own_weights import own_weights_later

SMALL = "configs/msn/quickstart_detector.yaml"


def _small(*opts: str):
    torch.manual_seed(0)
    random = ("MODEL.ALLOW_MISSING_WEIGHTS", "True")
    return build_model(load_config(SMALL, ["MODEL.FPN.OUT_CHANNELS", "16", *random, *opts]))


def _items() -> list[dict]:
    image = torch.zeros(3, 64, 96, dtype=torch.uint8)
    masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    masks[0, 10:40, 8:40] = masks[1, 20:60, 50:90] = True
    image[0, masks[0]], image[1, masks[1]] = 250, 180
    objects = Instances((64, 96))
    objects.gt_masks = BitMasks(masks)
    objects.gt_boxes = objects.gt_masks.get_bounding_boxes()
    objects.gt_classes = torch.tensor([1, 3])
    empty = Instances((64, 96))
    empty.gt_masks, empty.gt_boxes = BitMasks(masks[:0]), Boxes(torch.zeros(0, 4))
    empty.gt_classes = torch.zeros(0, dtype=torch.int64)
    return [{"image": image, "instances": objects}, {"image": image, "instances": empty}]


def test_every_official_parameter_has_its_place(golden):
    with torch.device("meta"):
        cfg = load_config("configs/msn/swinB_ytvis2021.yaml", ["MODEL.DEVICE", "meta"])
        cfg.MODEL.META_ARCHITECTURE = "MSNDetector"
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80
        model = build_model(cfg)
    ours = {k: list(v.shape) for k, v in model.state_dict().items()}
    backbone = json.loads(golden("swin/official_keys.json").read_text())["keys"]
    heads = json.loads(golden("swin/official_detector_keys.json").read_text())["keys"]
    official = {f"backbone.{k}": v[0] for k, v in backbone.items()} | {
        k: v[0] for k, v in heads.items()
    }
    state = {k: torch.empty(shape, device="meta") for k, shape in official.items()}
    converted = {k: list(v.shape) for k, v in convert(state).items()}
    assert converted == ours
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(145, abs=0.1)
    for name, (_, theirs) in heads.items():
        if theirs is not None and "mask_head" not in name:
            assert detector_name(name) == theirs


def test_imagenet_backbones_and_foreign_files():
    state = {
        "patch_embed.proj.weight": torch.zeros(1),
        "layers.0.blocks.0.norm1.weight": torch.zeros(1),
        "layers.0.blocks.1.attn_mask": torch.zeros(1),
        "norm.weight": torch.zeros(1),
        "head.bias": torch.zeros(1),
    }
    assert set(convert(state)) == {
        "backbone.bottom_up.patch_embed.proj.weight",
        "backbone.bottom_up.layers.0.blocks.0.norm1.weight",
    }
    with pytest.raises(InputError, match="no Swin checkpoint"):
        convert({"conv1.weight": torch.zeros(1)})
    with pytest.raises(InputError, match="bbox_head"):
        convert({"backbone.patch_embed.proj.weight": torch.zeros(1), "bbox_head": torch.zeros(1)})


def test_class_box():
    boxes = torch.arange(24.0).view(2, 12)
    assert class_box(boxes, torch.tensor([2, 0])).tolist() == [[8, 9, 10, 11], [12, 13, 14, 15]]
    agnostic = torch.arange(8.0).view(2, 4)
    assert torch.equal(class_box(agnostic, torch.tensor([2, 0])), agnostic)


def test_losses_of_every_stage_and_weights():
    model = _small().train()
    with EventStorage():
        torch.manual_seed(1)
        losses = model(_items())
    parts = ("loss_cls", "loss_box_reg", "loss_mask")
    assert {k for k in losses if "stage" in k} == {f"{p}_stage{k}" for p in parts for k in range(3)}
    assert all(torch.isfinite(v) for v in losses.values())
    sum(losses.values()).backward()
    model.roi_heads.stage_weights = [1.0, 0.5, 0.0]
    with EventStorage():
        torch.manual_seed(1)
        other = model(_items())
    assert all(other[f"{p}_stage2"] == 0 for p in parts)
    torch.testing.assert_close(other["loss_cls_stage1"], losses["loss_cls_stage1"])


def test_images_without_objects_train():
    model = _small().train()
    items = _items()[1:]
    with EventStorage():
        losses = model(items)
    assert all(torch.isfinite(v) for v in losses.values())
    assert losses["loss_mask_stage0"] == 0


def test_refined_boxes_are_those_of_the_true_class_without_ground_truth():
    heads = _small().roi_heads
    sampled = Instances((64, 96))
    sampled.proposal_boxes = Boxes(torch.tensor([[10.0, 10, 30, 30]] * 4))
    sampled.gt_classes = torch.tensor([2, 4, 4, 1])  # 4 is the background
    sampled.is_given = torch.tensor([False, False, True, False])
    logits = torch.zeros(4, 5)
    logits[:, 3] = 1.0  # the likeliest class
    logits[:, 4] = 5.0
    deltas = torch.zeros(4, 4, 4)
    deltas[:, :, 0] = torch.arange(4.0)[None]  # class c moves c / 10 of a width to the right
    (boxes,) = heads._refined((logits, deltas.flatten(1)), [sampled], 0)
    assert boxes.tensor[:, 0].tolist() == [14.0, 16.0, 12.0]


def test_masks_are_the_mean_of_the_heads():
    model = _small().eval()
    heads = model.roi_heads
    features = model.backbone(torch.zeros(1, 3, 64, 96))
    found = Instances((64, 96))
    found.pred_boxes = Boxes(torch.tensor([[5.0, 5, 60, 50]]))
    found.pred_classes = torch.tensor([2])
    with torch.no_grad():
        for k, head in enumerate(heads.mask_head):
            head.predictor.weight.zero_()
            head.predictor.bias.fill_(float(k))
        (out,) = heads.forward_with_given_boxes(features, [found])
    expected = torch.arange(3.0).sigmoid().mean()
    torch.testing.assert_close(out.pred_masks, expected.expand(1, 1, 28, 28))


@pytest.mark.parametrize("style", ["official", "detectron2"])
def test_both_styles_detect(style):
    model = _small("MODEL.MSN.CASCADE_STYLE", style, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0")
    image = _items()[0]["image"]
    with torch.no_grad():
        (out,) = model.eval()([{"image": image, "height": 32, "width": 48}])
    assert out["instances"].pred_masks.shape[1:] == (32, 48)
    assert len(out["instances"]) > 0
    agnostic = style == "detectron2"
    width = model.roi_heads.box_predictor[0].bbox_pred.out_features
    assert width == (4 if agnostic else 16)


def test_images_of_the_output_size_are_resized():
    model = _small("INPUT.MIN_SIZE_TEST", "32").eval()
    image = torch.zeros(3, 64, 96, dtype=torch.uint8)
    assert model._resized({"image": image})["image"].shape == (3, 32, 48)
    given = {"image": image, "height": 20, "width": 30}
    assert model._resized(given) is given


def test_unknown_styles_and_data_stages():
    with pytest.raises(InputError, match="CASCADE_STYLE 'mmdet'"):
        _small("MODEL.MSN.CASCADE_STYLE", "mmdet")
    with pytest.raises(InputError, match="DATA_STAGES 'all'"):
        _small("MODEL.MSN.DATA_STAGES", "all")
    with pytest.raises(InputError, match="trains on coco_2017_train \\+ ytvis_2021_train"):
        _small("MODEL.MSN.DATA_STAGES", "coco_vis_joint")


CONFIGS = shipped_configs("msn")


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: f.stem)
def test_configs_build(file: Path):
    with torch.device("meta"), own_weights_later():
        build_model(load_config(file, ["MODEL.DEVICE", "meta"]))
