"""Anchors, matcher, sampling, box deltas, poolers, post-processing, RoI sampling, box predictor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ROIAlign, ShapeSpec
from detectron2.modeling import (
    FastRCNNOutputLayers,
    ROIHeads,
    build_anchor_generator,
    detector_postprocess,
)
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import (
    ROIPooler,
    assign_boxes_to_levels,
    convert_boxes_to_pooler_format,
)
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.modeling.proposal_generator.proposal_utils import (
    add_ground_truth_to_proposals,
    find_top_rpn_proposals,
)
from detectron2.modeling.roi_heads import select_foreground_proposals
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

WEIGHTS = {"rpn": (1, 1, 1, 1), "roi": (10, 10, 5, 5), "cascade3": (30, 30, 15, 15)}


@pytest.fixture(scope="module")
def small(golden):
    file = golden("detectron2/small.npz")
    return {k: torch.from_numpy(v) for k, v in np.load(file).items()}


def random_boxes(count: int, scale: float = 60) -> torch.Tensor:
    corner = torch.rand(count, 2) * scale
    return torch.cat([corner, corner + 4 + torch.rand(count, 2) * scale], dim=1)


# ---------------------------------------------------------------- anchors


def test_anchors_as_recorded(small):
    generator = DefaultAnchorGenerator(
        sizes=[[32], [64], [128], [256], [512]],
        aspect_ratios=[[0.5, 1.0, 2.0]],
        strides=[4, 8, 16, 32, 64],
        offset=0.0,
    )
    torch.testing.assert_close(generator.cell_anchors[0], small["anchors_p2_cell"])
    torch.testing.assert_close(generator.cell_anchors[4], small["anchors_p6_cell"])
    maps = [torch.zeros(2, 1, 3, 4), torch.zeros(2, 1, 2, 2)]
    first, second = generator(maps)
    torch.testing.assert_close(first.tensor, small["anchors_p2_3x4"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(second.tensor, small["anchors_p3_2x2"], rtol=1e-5, atol=1e-5)
    assert generator.num_anchors == [3] * 5 and generator.box_dim == 4
    assert not generator.state_dict()

    shifted = DefaultAnchorGenerator(sizes=[16, 32], aspect_ratios=[1], strides=[8], offset=0.5)
    torch.testing.assert_close(shifted([torch.zeros(1, 1, 2, 3)])[0].tensor, small["anchors_off05"])


@pytest.mark.lite
def test_anchor_generator_from_config_and_bad_values():
    cfg = get_cfg()
    shapes = [ShapeSpec(stride=4), ShapeSpec(stride=8)]
    assert build_anchor_generator(cfg, shapes).num_anchors == [15, 15]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[1], [2], [3]]
    with pytest.raises(AssertionError, match="3 lists of sizes for 2 levels"):
        build_anchor_generator(cfg, shapes)
    with pytest.raises(AssertionError, match="offset"):
        DefaultAnchorGenerator(sizes=[1], aspect_ratios=[1], strides=[4], offset=1.0)


# ---------------------------------------------------------------- matcher, sampling


@pytest.mark.parametrize(
    ("case", "args"),
    [
        ("rpn", ([0.3, 0.7], [0, -1, 1], True)),
        ("roi", ([0.5], [0, 1], False)),
        ("cascade3", ([0.7], [0, 1], False)),
    ],
)
def test_matcher_as_recorded(small, case, args):
    index, labels = Matcher(*args)(small["matcher_quality"])
    assert index.dtype == torch.int64 and labels.dtype == torch.int8
    assert index.tolist() == small[f"matcher_{case}_idx"].tolist()
    assert labels.tolist() == small[f"matcher_{case}_label"].tolist()


def test_matcher_without_ground_truth_and_ties(small):
    index, labels = Matcher([0.3, 0.7], [0, -1, 1], True)(torch.zeros(0, 6))
    assert index.tolist() == small["matcher_empty_idx"].tolist()
    assert labels.tolist() == small["matcher_empty_label"].tolist()
    quality = torch.tensor([[0.2, 0.2, 0.1], [0.0, 0.6, 0.05]])
    index, labels = Matcher([0.3, 0.7], [0, -1, 1], True)(quality)
    assert labels.tolist() == [1, 1, 0]  # both ties of the first, the best of the second
    assert index.tolist() == [0, 1, 0]  # each keeps its own best
    at_threshold = Matcher([0.5], [0, 1])(torch.tensor([[0.5, 0.49999]]))[1]
    assert at_threshold.tolist() == [1, 0]


@pytest.mark.parametrize(
    "args", [([0.7, 0.3], [0, -1, 1]), ([0.5], [0, 1, 1]), ([-0.1], [0, 1]), ([0.5], [0, 2])]
)
def test_matcher_refuses(args):
    with pytest.raises(AssertionError):
        Matcher(*args)


@pytest.mark.parametrize("num, fraction", [(10, 0.5), (10, 0.0), (200, 0.25), (1, 1.0)])
def test_subsample_labels(num, fraction):
    torch.manual_seed(0)
    labels = torch.randint(-1, 4, (60,))
    positive, negative = subsample_labels(labels, num, fraction, 3)
    assert len(positive) == min(int(num * fraction), ((labels >= 0) & (labels < 3)).sum())
    assert len(negative) == min(num - len(positive), (labels == 3).sum())
    assert (labels[positive] >= 0).all() and (labels[positive] != 3).all()
    assert (labels[negative] == 3).all()
    assert len(set(positive.tolist())) == len(positive)
    empty = subsample_labels(labels[:0], num, fraction, 3)
    assert [len(x) for x in empty] == [0, 0]


# ---------------------------------------------------------------- box deltas


@pytest.mark.parametrize("case", WEIGHTS)
def test_box_deltas_as_recorded(small, case):
    transform = Box2BoxTransform(WEIGHTS[case])
    deltas = transform.get_deltas(small["b2b_src"], small["b2b_dst"])
    torch.testing.assert_close(deltas, small[f"b2b_{case}_deltas"], rtol=1e-5, atol=1e-5)
    applied = transform.apply_deltas(small["b2b_rand_deltas"], small["b2b_src"])
    torch.testing.assert_close(applied, small[f"b2b_{case}_apply"], rtol=1e-5, atol=1e-5)
    back = transform.apply_deltas(deltas, small["b2b_src"])
    torch.testing.assert_close(back, small["b2b_dst"], rtol=1e-4, atol=1e-3)


@pytest.mark.lite
def test_box_deltas_clamp_and_refuse():
    transform = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    box = torch.tensor([[0.0, 0, 16, 16]])
    grown = transform.apply_deltas(torch.tensor([[0, 0, 50.0, 0]]), box)
    assert (grown[0, 2] - grown[0, 0]).item() == pytest.approx(1000, rel=1e-4)
    assert transform.apply_deltas(torch.zeros(1, 4).half(), box.half()).dtype == torch.float32
    assert transform.apply_deltas(torch.zeros(0, 8), box[:0]).shape == (0, 8)
    with pytest.raises(AssertionError, match="width"):
        transform.get_deltas(torch.tensor([[3.0, 0, 3, 5]]), box)


# ---------------------------------------------------------------- poolers


def test_levels_as_recorded(small):
    levels = assign_boxes_to_levels([Boxes(small["level_boxes"])], 2, 5, 224, 4)
    assert levels.tolist() == small["levels_2_5"].tolist()


def test_pooler_as_recorded(small):
    maps = [small[f"pooler_feat{i}"] for i in range(4)]
    boxes = [Boxes(small["pooler_boxes0"]), Boxes(small["pooler_boxes1"])]
    pooler = ROIPooler(3, [1 / 4, 1 / 8, 1 / 16, 1 / 32], 0, "ROIAlignV2")
    torch.testing.assert_close(pooler(maps, boxes), small["pooler_out"], rtol=1e-5, atol=1e-5)

    rois = convert_boxes_to_pooler_format(boxes)
    assert rois[:, 0].tolist() == [0.0] * 4 + [1.0] * 3
    levels = assign_boxes_to_levels(boxes, 2, 5, 224, 4)
    slow = [
        ROIAlign(3, 1 / 2 ** (2 + level), 0)(maps[level], roi[None])
        for level, roi in zip(levels.tolist(), rois)
    ]
    torch.testing.assert_close(pooler(maps, boxes), torch.cat(slow))


def test_pooler_without_boxes_keeps_the_graph():
    pooler = ROIPooler(3, [1 / 4, 1 / 8], 0, "ROIAlignV2")
    maps = [torch.full((1, 2, 4, 4), torch.inf, requires_grad=True), torch.zeros(1, 2, 2, 2)]
    out = pooler(maps, [Boxes(torch.zeros(0, 4))])
    assert out.shape == (0, 2, 3, 3)
    out.sum().backward()
    assert maps[0].grad is not None


@pytest.mark.lite
def test_pooler_variants():
    feature = torch.randn(1, 2, 16, 16)
    boxes = [Boxes(torch.tensor([[0.0, 0, 30, 30]]))]
    one = ROIPooler((2, 3), [0.5], 2, "ROIAlign")
    assert one([feature], boxes).shape == (1, 2, 2, 3)
    assert ROIPooler(2, [0.5], 0, "ROIPool")([feature], boxes).shape == (1, 2, 2, 2)
    with pytest.raises(ValueError, match="POOLER_TYPE"):
        ROIPooler(2, [0.5], 0, "ROIAlignRotated")
    with pytest.raises(AssertionError):
        ROIPooler(2, [0.3], 0, "ROIAlign")
    with pytest.raises(AssertionError):
        ROIPooler((2, 3), [0.5, 0.25], 0, "ROIAlign")
    with pytest.raises(AssertionError, match="halve"):
        ROIPooler(2, [0.5, 0.125], 0, "ROIAlign")


# ---------------------------------------------------------------- post-processing


def test_postprocess_as_recorded(small):
    results = Instances((80, 100))
    results.pred_boxes = Boxes(small["post_boxes_in"].clone())
    results.scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    results.pred_classes = torch.arange(6)
    results.pred_masks = small["paste_masks"][:, None]
    out = detector_postprocess(results, 120, 130)
    torch.testing.assert_close(out.pred_boxes.tensor, small["post_boxes"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(
        np.packbits(out.pred_masks.numpy().reshape(len(out), -1), axis=1),
        small["post_masks_packed"],
    )
    assert out.image_size == (120, 130) and len(out.scores) == len(small["post_classes"])
    # Documented: the boxes of the input are scaled in place.
    assert results.pred_boxes.tensor.max() > 100


@pytest.mark.lite
def test_postprocess_classes_and_proposals(small):
    results = Instances((10, 10))
    results.proposal_boxes = Boxes(torch.tensor([[0.0, 0, 5, 5], [3, 3, 3, 9], [-5, -5, 50, 50]]))
    out = detector_postprocess(results, 20, 30)
    assert out.proposal_boxes.tensor.tolist() == [[0, 0, 15, 10], [0, 0, 30, 20]]
    with pytest.raises(AssertionError, match="pred_boxes"):
        detector_postprocess(Instances((10, 10)), 20, 30)


def test_sem_seg_postprocess():
    x = torch.randn(3, 8, 8)
    out = sem_seg_postprocess(x, (5, 6), 10, 12)
    expected = F.interpolate(x[None, :, :5, :6], size=(10, 12), mode="bilinear")[0]
    torch.testing.assert_close(out, expected)


# ---------------------------------------------------------------- proposals


def slow_top_proposals(boxes, logits, size, nms_thresh, pre, post, min_size):
    """One image, one box at a time."""
    kept = []
    for box, logit in zip(boxes, logits):
        order = logit.argsort(descending=True)[:pre]
        chosen = []
        for i in order.tolist():
            x0, y0, x1, y1 = box[i].tolist()
            x0, x1 = min(max(x0, 0), size[1]), min(max(x1, 0), size[1])
            y0, y1 = min(max(y0, 0), size[0]), min(max(y1, 0), size[0])
            if x1 - x0 <= min_size or y1 - y0 <= min_size:
                continue
            new = torch.tensor([[x0, y0, x1, y1]])
            if all(pairwise_iou(Boxes(new), Boxes(b)).item() <= nms_thresh for _, b in chosen):
                chosen.append((logit[i].item(), new))
        kept += chosen
    kept = sorted(kept, key=lambda pair: -pair[0])[:post]
    return torch.cat([b for _, b in kept]), [s for s, _ in kept]


def test_top_proposals_equal_slow_version():
    torch.manual_seed(1)
    boxes = [random_boxes(30)[None] - 10, random_boxes(12)[None]]
    logits = [torch.randn(1, 30), torch.randn(1, 12)]
    args = ((50, 70), 0.5, 20, 12, 8.0)
    out = find_top_rpn_proposals(
        boxes, logits, [args[0]], args[1], args[2], args[3], args[4], False
    )[0]
    slow_boxes, slow_scores = slow_top_proposals(
        [b[0] for b in boxes], [x[0] for x in logits], *args
    )
    torch.testing.assert_close(out.proposal_boxes.tensor, slow_boxes)
    assert out.objectness_logits.tolist() == pytest.approx(slow_scores)


def test_top_proposals_drop_what_is_not_finite():
    boxes = [random_boxes(6).expand(2, 6, 4).clone()]
    logits = [torch.randn(2, 6)]
    boxes[0][0, 2] = torch.nan
    logits[0][1, 3] = torch.inf
    args = ([(99, 99)] * 2, 1.0, 6, 6, 0.0)
    out = find_top_rpn_proposals(boxes, logits, *args, False)
    assert [len(x) for x in out] == [5, 5]
    with pytest.raises(FloatingPointError):
        find_top_rpn_proposals(boxes, logits, *args, True)


def test_ground_truth_becomes_a_proposal():
    proposals = Instances((50, 50))
    proposals.proposal_boxes = Boxes(random_boxes(2))
    proposals.objectness_logits = torch.zeros(2)
    gt = Instances((50, 50))
    gt.gt_boxes = Boxes(random_boxes(3))
    out = add_ground_truth_to_proposals([gt], [proposals])[0]
    assert len(out) == 5 and out.objectness_logits[-1].item() == pytest.approx(23.03, abs=0.01)
    torch.testing.assert_close(out.proposal_boxes.tensor[2:], gt.gt_boxes.tensor)
    assert len(add_ground_truth_to_proposals([gt.gt_boxes], [proposals])[0]) == 5


# ---------------------------------------------------------------- RoI heads


def heads(**changes):
    options = {
        "num_classes": 4,
        "batch_size_per_image": 8,
        "positive_fraction": 0.25,
        "proposal_matcher": Matcher([0.5], [0, 1]),
    }
    return ROIHeads(**{**options, **changes})


@pytest.mark.parametrize("append", [True, False])
def test_label_and_sample(append):
    torch.manual_seed(0)
    gt = Instances((64, 64))
    gt.gt_boxes = Boxes(torch.tensor([[0.0, 0, 20, 20], [30, 30, 60, 60]]))
    gt.gt_classes = torch.tensor([1, 3])
    gt.gt_ids = torch.tensor([7, 9])
    proposals = Instances((64, 64))
    near = gt.gt_boxes.tensor.repeat(4, 1) + torch.rand(8, 4)
    proposals.proposal_boxes = Boxes(torch.cat([near, random_boxes(20, 8) + 40]))
    proposals.objectness_logits = torch.zeros(28)
    with EventStorage() as storage:
        out = heads(proposal_append_gt=append).label_and_sample_proposals([proposals], [gt])[0]
        assert storage.latest()["roi_head/num_fg_samples"][0] == 2
    assert len(out) == 8 and (out.gt_classes < 4).sum() == 2
    for i in torch.nonzero(out.gt_classes < 4)[:, 0].tolist():
        iou = pairwise_iou(gt.gt_boxes, out.proposal_boxes[i])[:, 0]
        assert iou.max() >= 0.5 and out.gt_classes[i] == gt.gt_classes[iou.argmax()]
        assert out.gt_ids[i] == gt.gt_ids[iou.argmax()]  # every gt_* field follows


def test_label_and_sample_without_objects():
    gt = Instances((64, 64))
    gt.gt_boxes, gt.gt_classes = Boxes(torch.zeros(0, 4)), torch.zeros(0, dtype=torch.int64)
    proposals = Instances((64, 64))
    proposals.proposal_boxes = Boxes(random_boxes(5))
    proposals.objectness_logits = torch.zeros(5)
    with EventStorage():
        out = heads().label_and_sample_proposals([proposals], [gt])[0]
    assert out.gt_classes.tolist() == [4] * 5 and not out.has("gt_boxes")


def test_select_foreground():
    x = Instances((5, 5), gt_classes=torch.tensor([0, 4, -1, 2]))
    chosen, masks = select_foreground_proposals([x], 4)
    assert chosen[0].gt_classes.tolist() == [0, 2]
    assert masks[0].tolist() == [True, False, False, True]


def predictor(**changes) -> FastRCNNOutputLayers:
    options = {"box2box_transform": Box2BoxTransform((10, 10, 5, 5)), "num_classes": 3}
    return FastRCNNOutputLayers(ShapeSpec(channels=6), **{**options, **changes})


@pytest.mark.parametrize("agnostic", [True, False])
def test_box_predictor_losses_equal_slow_version(agnostic):
    torch.manual_seed(0)
    layer = predictor(cls_agnostic_bbox_reg=agnostic)
    proposals = Instances((90, 90))
    proposals.proposal_boxes = Boxes(random_boxes(5))
    proposals.gt_boxes = Boxes(random_boxes(5))
    proposals.gt_classes = torch.tensor([0, 3, 2, 3, 1])
    logits, deltas = torch.randn(5, 4), torch.randn(5, 4 if agnostic else 12)
    with EventStorage():
        losses = layer.losses((logits, deltas), [proposals])
    slow = 0.0
    for i in (0, 2, 4):
        target = layer.box2box_transform.get_deltas(
            proposals.proposal_boxes[i].tensor, proposals.gt_boxes[i].tensor
        )
        k = 0 if agnostic else int(proposals.gt_classes[i])
        slow += (deltas[i, 4 * k : 4 * k + 4] - target[0]).abs().sum().item()
    assert losses["loss_box_reg"].item() == pytest.approx(slow / 5, rel=1e-5)
    expected = F.cross_entropy(logits, proposals.gt_classes).item()
    assert losses["loss_cls"].item() == pytest.approx(expected)
    boxes = layer.predict_boxes_for_gt_classes((logits, deltas), [proposals])[0]
    assert boxes.shape == (5, 4)


def test_box_predictor_without_proposals():
    layer = predictor()
    empty = Instances((9, 9), proposal_boxes=Boxes(torch.zeros(0, 4)))
    empty.gt_boxes, empty.gt_classes = Boxes(torch.zeros(0, 4)), torch.zeros(0, dtype=torch.int64)
    predictions = layer(torch.zeros(0, 6))
    with EventStorage():
        losses = layer.losses(predictions, [empty])
    assert {k: v.item() for k, v in losses.items()} == {"loss_cls": 0.0, "loss_box_reg": 0.0}
    out, rows = layer.inference(predictions, [empty])
    assert len(out[0]) == 0 and rows[0].numel() == 0


def test_sigmoid_cross_entropy():
    layer = predictor(use_sigmoid_ce=True)
    logits, classes = torch.randn(3, 4), torch.tensor([0, 3, 2])
    target = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 1]])
    slow = F.binary_cross_entropy_with_logits(logits[:, :3], target, reduction="none").sum(1).mean()
    assert layer.sigmoid_cross_entropy_loss(logits, classes).item() == pytest.approx(slow.item())


def test_inference_threshold_is_strict_and_topk_cuts():
    boxes = torch.tensor([[0.0, 0, 9, 9], [20, 20, 30, 30], [40, 40, 90, 90]])
    scores = torch.tensor([[0.5, 0.2, 0.3], [0.6, 0.4, 0.0], [float("nan"), 0.9, 0.1]])
    out, rows = fast_rcnn_inference([boxes], [scores], [(50, 60)], 0.2, 0.5, 10)
    assert out[0].pred_classes.tolist() == [0, 0, 1] and rows[0].tolist() == [1, 0, 1]
    assert out[0].scores.tolist() == pytest.approx([0.6, 0.5, 0.4])
    out, _ = fast_rcnn_inference([boxes], [scores], [(50, 60)], 0.2, 0.5, 1)
    assert len(out[0]) == 1
    out, _ = fast_rcnn_inference([boxes], [scores], [(50, 60)], 0.2, 0.5, -1)
    assert len(out[0]) == 3
