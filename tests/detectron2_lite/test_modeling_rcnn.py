"""Whole detectors: recorded keys, features, proposals, detections, losses and gradients."""

from __future__ import annotations

import json

import fill
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import GeneralizedRCNN, ProposalNetwork, build_model
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

MODELS = (
    "mask_rcnn_R_50_FPN_3x",
    "mask_rcnn_R_101_FPN_3x",
    "mask_rcnn_X_101_32x8d_FPN_3x",
    "cascade_mask_rcnn_R_50_FPN_3x",
)
RUN = (MODELS[0], MODELS[3])


def recorded_cfg(golden, name: str):
    """The config of that model, from the recorded differences to the default."""
    cfg = get_cfg()
    changes = json.loads(golden(f"detectron2/config_{name}.json").read_text())
    cfg.merge_from_list([x for pair in changes.items() for x in pair])
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def filled(cfg, scale: float):
    model = build_model(cfg)
    fill.fill(model)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if ".bbox_pred." in key or ".anchor_deltas." in key:
                value *= scale
    return model


def image(seed: int, hw) -> torch.Tensor:
    frame = fill.frames(seed, 1, *hw)[0][:, :, ::-1]
    return torch.from_numpy(np.ascontiguousarray(frame.astype(np.float32).transpose(2, 0, 1)))


def unpack(packed: np.ndarray, shape) -> np.ndarray:
    count = int(np.prod(shape))
    return np.unpackbits(packed, axis=1)[:, :count].reshape(-1, *shape).astype(bool)


@pytest.mark.parametrize("name", MODELS)
def test_state_dict_as_recorded(golden, name):
    state = json.loads(golden(f"detectron2/state_{name}.json").read_text())
    cfg = recorded_cfg(golden, name)
    with torch.device("meta"):
        cfg.MODEL.DEVICE = "meta"
        model = build_model(cfg)
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == state["shapes"]
    frozen = {k for k, v in model.named_parameters() if not v.requires_grad}
    assert frozen == set(state["frozen_parameters"])
    buffers = {k for k, _ in model.named_buffers()} - set(model.state_dict())
    assert buffers == set(state["non_persistent_buffers"])


@pytest.mark.parametrize("name", [RUN[0], pytest.param(RUN[1], marks=pytest.mark.slow)])
def test_inference_as_recorded(golden, name):
    reference = json.loads(golden(f"detectron2/model_{name}.json").read_text())
    arrays = np.load(golden(f"detectron2/model_{name}.npz"))
    cfg = recorded_cfg(golden, name)
    cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = reference["pre_nms_topk_test"]
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = reference["post_nms_topk_test"]
    cfg.TEST.DETECTIONS_PER_IMAGE = reference["detections_per_image"]
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = reference["score_thresh_test"]
    model = filled(cfg, reference["delta_scale"]).eval()
    height, width = reference["out_hw"]
    inputs = [
        {"image": image(reference["seed"], reference["hw"]), "height": height, "width": width}
    ]
    with torch.no_grad():
        images = model.preprocess_image(inputs)
        assert list(images.tensor.shape) == reference["padded_shape"]
        features = model.backbone(images.tensor)
        features |= model.backbone.bottom_up(images.tensor)
        for key, expected in reference["features"].items():
            values = features[key]
            assert list(values.shape) == expected["shape"], key
            at = np.linspace(0, values.numel() - 1, 48).round().astype(int)
            scale = expected["absmax"]
            np.testing.assert_allclose(
                values.flatten()[at], expected["samples"], rtol=1e-3, atol=1e-3 * scale
            )
            assert values.std(correction=0).item() == pytest.approx(expected["std"], rel=1e-3)
        proposals, losses = model.proposal_generator(images, features)
        assert losses == {}
        np.testing.assert_allclose(
            proposals[0].proposal_boxes.tensor, arrays["proposal_boxes"], atol=5e-3, rtol=0
        )
        np.testing.assert_allclose(
            proposals[0].objectness_logits, arrays["proposal_logits"], atol=1e-3, rtol=0
        )
        raw = model.inference(inputs, do_postprocess=False)[0]
        np.testing.assert_allclose(raw.pred_boxes.tensor, arrays["raw_boxes"], atol=5e-3, rtol=0)
        np.testing.assert_allclose(raw.scores, arrays["raw_scores"], atol=1e-4, rtol=0)
        np.testing.assert_array_equal(raw.pred_classes, arrays["raw_classes"])
        np.testing.assert_allclose(
            raw.pred_masks[:, 0], arrays["raw_mask_probs"], atol=1e-4, rtol=0
        )
        final = model(inputs)[0]["instances"]
    np.testing.assert_allclose(final.pred_boxes.tensor, arrays["boxes"], atol=5e-3, rtol=0)
    np.testing.assert_allclose(final.scores, arrays["scores"], atol=1e-4, rtol=0)
    np.testing.assert_array_equal(final.pred_classes, arrays["classes"])
    expected = unpack(arrays["masks_packed"], (height, width))
    assert (final.pred_masks.numpy() != expected).sum() <= 20


@pytest.mark.parametrize(
    ("name", "masks"),
    [
        (RUN[1], "polygon"),
        pytest.param(RUN[1], "bitmask", marks=pytest.mark.slow),
        pytest.param(RUN[0], "polygon", marks=pytest.mark.slow),
        pytest.param(RUN[0], "bitmask", marks=pytest.mark.slow),
    ],
)
def test_training_as_recorded(golden, name, masks):
    reference = json.loads(golden(f"detectron2/model_{name}.json").read_text())
    arrays = np.load(golden(f"detectron2/model_{name}.npz"))
    cfg = recorded_cfg(golden, name)
    cfg.merge_from_list([x for pair in reference["train_overrides"].items() for x in pair])
    model = filled(cfg, reference["delta_scale"]).train()
    inputs = []
    for i, (seed, hw) in enumerate(zip(reference["train_seeds"], reference["train_hw"])):
        target = Instances(tuple(hw))
        target.gt_boxes = Boxes(torch.from_numpy(arrays[f"gt_boxes_{i}"]))
        target.gt_classes = torch.from_numpy(arrays[f"gt_classes_{i}"])
        polygons = [[p] for p in arrays[f"gt_polygons_{i}"]]
        if masks == "polygon":
            target.gt_masks = PolygonMasks(polygons)
        else:
            target.gt_masks = BitMasks.from_polygon_masks(polygons, *hw)
        inputs.append({"image": image(seed, hw), "instances": target})
    with EventStorage() as storage:
        losses = model(inputs)
        scalars = {k: v[0] for k, v in storage.latest().items()}
    for key, value in reference[f"losses_{masks}"].items():
        assert losses[key].item() == pytest.approx(value, rel=1e-4, abs=1e-6), key
    assert set(losses) == set(reference[f"losses_{masks}"])
    assert scalars == pytest.approx(reference[f"storage_{masks}"], rel=1e-6)
    sum(losses.values()).backward()
    parameters = dict(model.named_parameters())
    for key, value in reference[f"grad_norms_{masks}"].items():
        assert parameters[key].grad.norm().item() == pytest.approx(value, rel=2e-3), key


def tiny_cfg(*, cascade: bool = False):
    """A Mask R-CNN on ResNet-18 with few channels above it."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [16], [32], [64]]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 50
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 20
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.ROI_HEADS.NAME = "CascadeROIHeads" if cascade else "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = cascade
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 3
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 4
    return cfg


def target(count: int, size=(64, 80)) -> Instances:
    out = Instances(size)
    corner = torch.arange(count).float()[:, None] * 8
    out.gt_boxes = Boxes(torch.cat([corner, corner, corner + 20, corner + 24], dim=1))
    out.gt_classes = torch.arange(count) % 3
    masks = torch.zeros(count, *size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, out.gt_boxes.tensor.long().tolist()):
        mask[y0:y1, x0:x1] = True
    out.gt_masks = BitMasks(masks)
    return out


@pytest.mark.parametrize("counts", [(2, 0), (0, 0), (1, 3)])
@pytest.mark.parametrize("cascade", [False, True])
def test_images_without_objects_train(cascade, counts):
    torch.manual_seed(0)
    model = build_model(tiny_cfg(cascade=cascade)).train()
    inputs = [{"image": torch.rand(3, 64, 80) * 255, "instances": target(n)} for n in counts]
    with EventStorage():
        losses = model(inputs)
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    assert losses["loss_rpn_loc"].item() > 0 or not any(counts)
    # Every trainable parameter takes part: a distributed backward pass hangs otherwise.
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    "change",
    [
        ["MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "giou", "MODEL.RPN.BBOX_REG_LOSS_TYPE", "diou"],
        ["MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "ciou"],
        ["MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True],
        ["MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True],
        ["MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True],
        ["MODEL.RPN.CONV_DIMS", [8, -1], "MODEL.RPN.BOUNDARY_THRESH", 0],
        ["MODEL.ROI_BOX_HEAD.NUM_CONV", 1, "MODEL.ROI_BOX_HEAD.NORM", "GN"],
        [
            "MODEL.ROI_MASK_HEAD.POOLER_TYPE",
            "ROIAlign",
            "MODEL.ROI_BOX_HEAD.POOLER_TYPE",
            "ROIPool",
        ],
        ["MODEL.MASK_ON", False],
    ],
)
def test_options_train_and_detect(change):
    torch.manual_seed(0)
    cfg = tiny_cfg()
    cfg.MODEL.ROI_BOX_HEAD.CONV_DIM = 32
    cfg.merge_from_list(change)
    model = build_model(cfg).train()
    with EventStorage():
        losses = model([{"image": torch.rand(3, 64, 80) * 255, "instances": target(2)}])
    assert all(torch.isfinite(x) for x in losses.values())
    assert ("loss_mask" in losses) == cfg.MODEL.MASK_ON
    with torch.no_grad():
        result = model.eval()([{"image": torch.rand(3, 64, 80) * 255, "height": 32}])[0]
    assert result["instances"].image_size == (32, 80)
    assert result["instances"].has("pred_masks") == cfg.MODEL.MASK_ON


@pytest.mark.slow
def test_training_overfits_one_image():
    torch.manual_seed(0)
    cfg = tiny_cfg()
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.NORM = "GN"
    model = build_model(cfg).train()
    inputs = [{"image": torch.rand(3, 64, 80) * 255, "instances": target(2)}]
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 2e-3)
    totals = []
    with EventStorage():
        for _ in range(25):
            total = sum(model(inputs).values())
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            totals.append(total.item())
    assert np.mean(totals[-3:]) < 0.4 * totals[0]


def test_pictures_of_training(monkeypatch):
    cfg = tiny_cfg()
    cfg.VIS_PERIOD = 1
    model = build_model(cfg).train()
    assert model.vis_period == model.roi_heads.mask_head.vis_period == 1
    pictures = {}
    with EventStorage() as storage:
        monkeypatch.setattr(storage, "put_image", lambda k, v: pictures.update({k: tuple(v.shape)}))
        model([{"image": torch.rand(3, 64, 80) * 255, "instances": target(2)}])
    assert pictures.pop("Left: GT bounding boxes;  Right: Predicted proposals") == (3, 64, 160)
    assert pictures and set(pictures.values()) == {(3, 8, 16)}


@pytest.mark.parametrize("cascade", [False, True])
def test_half_precision_on_cpu(cascade):
    torch.manual_seed(0)
    model = build_model(tiny_cfg(cascade=cascade)).train()
    inputs = [{"image": torch.rand(3, 64, 80) * 255, "instances": target(2)}]
    with torch.autocast("cpu", dtype=torch.bfloat16), EventStorage():
        total = sum(model(inputs).values())
    total.backward()
    assert torch.isfinite(total)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        out = model.eval()(inputs)[0]["instances"]
    assert torch.isfinite(out.scores).all() and out.pred_masks.dtype == torch.bool


@pytest.mark.gpu
@pytest.mark.parametrize("cascade", [False, True])
def test_cuda_equals_cpu(cascade):
    torch.manual_seed(0)
    model = build_model(tiny_cfg(cascade=cascade)).eval()
    inputs = [{"image": torch.rand(3, 64, 80) * 255, "height": 96, "width": 120}]
    with torch.no_grad():
        expected = model(inputs)[0]["instances"]
        got = model.cuda()(inputs)[0]["instances"].to("cpu")
    assert len(got) == len(expected)
    torch.testing.assert_close(got.scores, expected.scores, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(got.pred_boxes.tensor, expected.pred_boxes.tensor, atol=0.1, rtol=0)
    assert (got.pred_masks != expected.pred_masks).float().mean() < 1e-2


def test_given_boxes_keep_their_place():
    torch.manual_seed(0)
    model = build_model(tiny_cfg()).eval()
    inputs = [{"image": torch.rand(3, 64, 80) * 255}]
    given = Instances((64, 80))
    given.pred_boxes = Boxes(torch.tensor([[4.0, 4, 30, 40], [10, 20, 50, 60]]))
    given.pred_classes = torch.tensor([2, 0])
    with torch.no_grad():
        out = model.inference(inputs, [given], do_postprocess=False)[0]
    assert out.pred_boxes.tensor.tolist() == given.pred_boxes.tensor.tolist()
    assert out.pred_masks.shape == (2, 1, 8, 8)


def test_no_detection_gives_empty_fields():
    cfg = tiny_cfg()
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 1.0
    model = build_model(cfg).eval()
    with torch.no_grad():
        out = model([{"image": torch.zeros(3, 64, 80)}])[0]["instances"]
    assert len(out) == 0 and out.pred_masks.shape == (0, 64, 80)
    assert out.pred_masks.dtype == torch.bool


@pytest.mark.lite
def test_precomputed_proposals():
    cfg = tiny_cfg()
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    model = build_model(cfg).eval()
    proposals = Instances((64, 80))
    proposals.proposal_boxes = Boxes(torch.tensor([[4.0, 4, 30, 40]]))
    proposals.objectness_logits = torch.zeros(1)
    with torch.no_grad():
        out = model([{"image": torch.zeros(3, 64, 80), "proposals": proposals}])[0]["instances"]
    assert len(out) > 0
    with pytest.raises(AssertionError, match="proposals"):
        model([{"image": torch.zeros(3, 64, 80)}])


def test_proposal_network():
    cfg = tiny_cfg()
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    model = build_model(cfg)
    assert isinstance(model, ProposalNetwork)
    inputs = [{"image": torch.rand(3, 64, 80) * 255, "instances": target(2), "height": 128}]
    with EventStorage():
        assert set(model.train()(inputs)) == {"loss_rpn_cls", "loss_rpn_loc"}
    with torch.no_grad():
        out = model.eval()(inputs)[0]["proposals"]
    assert out.image_size == (128, 80) and 0 < len(out) <= 20


def test_diverged_training_is_an_error():
    model = build_model(tiny_cfg()).train()
    with torch.no_grad():
        model.proposal_generator.rpn_head.anchor_deltas.bias.fill_(float("nan"))
    with EventStorage(), pytest.raises(FloatingPointError):
        model([{"image": torch.zeros(3, 64, 80), "instances": target(1)}])


@pytest.mark.lite
def test_parts_left_out_say_so():
    cfg = tiny_cfg()
    cfg.MODEL.KEYPOINT_ON = True
    with pytest.raises(NotImplementedError, match="KEYPOINT_ON"):
        build_model(cfg)
    cfg = tiny_cfg()
    cfg.MODEL.ROI_BOX_HEAD.USE_FED_LOSS = True
    with pytest.raises(NotImplementedError, match="USE_FED_LOSS"):
        build_model(cfg)
    cfg = tiny_cfg(cascade=True)
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = False
    with pytest.raises(AssertionError, match="CLS_AGNOSTIC_BBOX_REG"):
        build_model(cfg)


@pytest.mark.lite
def test_direct_construction():
    """The constructor takes parts as well as a config."""
    whole = build_model(tiny_cfg())
    model = GeneralizedRCNN(
        backbone=whole.backbone,
        proposal_generator=whole.proposal_generator,
        roi_heads=whole.roi_heads,
        pixel_mean=[0.0, 0.0, 0.0],
        pixel_std=[1.0, 1.0, 1.0],
    )
    assert model.device.type == "cpu" and set(model.state_dict()) == set(whole.state_dict())
    with pytest.raises(AssertionError, match="PIXEL_STD"):
        GeneralizedRCNN(
            backbone=whole.backbone,
            proposal_generator=None,
            roi_heads=whole.roi_heads,
            pixel_mean=[0.0, 0.0, 0.0],
            pixel_std=[1.0],
        )
