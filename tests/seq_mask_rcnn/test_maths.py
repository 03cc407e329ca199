"""Key frames, aggregation, loss, pasting, tubes, scores and reduction against the recordings."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from vis_projects.seq_mask_rcnn.aggregation import aggregate, aggregate_groups, aggregation_logits
from vis_projects.seq_mask_rcnn.guidance import keep_distinct, paste_in_integer_boxes
from vis_projects.seq_mask_rcnn.key_frames import select_key_frames
from vis_projects.seq_mask_rcnn.sequence_reduction import ReductionOptions, reduce_sequences
from vis_projects.seq_mask_rcnn.sequence_scores import boxes_of_masks, sequence_class_scores
from vis_projects.seq_mask_rcnn.soft_iou_loss import soft_iou_loss
from vis_projects.structures import InputError


def test_key_frames(golden):
    for row in json.loads(golden("seq_mask_rcnn/key_frames.json").read_text())["rows"]:
        length, count = row["T"], row["K"]
        for rule, name in (("released", "official"), ("paper", "paper_eq1")):
            want = row[name]
            want = [0] if isinstance(want, str) or count == 1 else want
            want = sorted({t for t in want if t < length})
            assert select_key_frames(length, count, rule=rule) == want, row
    assert select_key_frames(3, 0) == [0, 1, 2]
    assert select_key_frames(0, 5) == []
    with pytest.raises(InputError, match="KEY_FRAME_RULE"):
        select_key_frames(3, 2, rule="all")


def test_loss_and_its_gradient(recorded):
    d = recorded("loss")
    leaves, logits, losses = [], [], []
    for b in ("b0", "b1"):
        p = torch.from_numpy(d[f"{b}.ps"]).requires_grad_()
        z = aggregation_logits(p)
        z.retain_grad()
        pids = d[f"{b}.gt_pids"]
        gt = torch.from_numpy(np.stack([d[f"{b}.gt_masks"][pids == k][0] for k in pids[pids > 0]]))
        order = np.argsort(pids[pids > 0])
        each = soft_iou_loss(z.softmax(0)[1:], gt[order])
        np.testing.assert_allclose(each.detach(), d[f"{b}.per_instance"], atol=1e-5)
        np.testing.assert_allclose(z.detach()[None], d[f"{b}.agg_logits"], atol=1e-4)
        leaves.append(p)
        logits.append(z)
        losses.append(each)
    loss = torch.cat(losses).mean()
    np.testing.assert_allclose(loss.item(), d["loss"], atol=1e-5)
    loss.backward()
    for b, p, z in zip(("b0", "b1"), leaves, logits):
        np.testing.assert_allclose(z.grad[None], d[f"{b}.grad_agg_logits"], atol=1e-5)
        np.testing.assert_allclose(p.grad, d[f"{b}.grad_ps"], atol=1e-5)
    q = torch.from_numpy(d["single.pred"]).requires_grad_()
    loss = soft_iou_loss(q[None], torch.from_numpy(d["single.label"])[None])[0]
    loss.backward()
    np.testing.assert_allclose(loss.item(), d["single.loss"], atol=1e-5)
    np.testing.assert_allclose(q.grad, d["single.grad"], atol=1e-5)


def test_pasting(recorded):
    d = recorded("paste")
    probs = torch.from_numpy(d["logits"])[torch.arange(4), 1 + torch.from_numpy(d["labels"])]
    pasted = paste_in_integer_boxes(
        probs.sigmoid(), torch.from_numpy(d["boxes"]), tuple(d["image_hw"])
    )
    np.testing.assert_allclose(pasted, d["soft"], atol=1e-5)
    np.testing.assert_array_equal(pasted > 0.5, d["hard"] > 0)
    assert paste_in_integer_boxes(probs[:0], torch.zeros(0, 4), (5, 6)).shape == (0, 5, 6)


def test_sequence_iou_and_reduction(recorded, tubes_of):
    d = recorded("reduce")
    for s, meta in enumerate(json.loads(str(d["meta"]))):
        tubes = tubes_of(d[f"s{s}.tubes_packed"], meta["T"], (meta["h"], meta["w"]))
        ious = tubes.iou().numpy()
        np.testing.assert_allclose(ious, d[f"s{s}.iou"], atol=1e-12)
        scores = d[f"s{s}.scores"][:, 1:]
        for name, case in meta["cases"].items():
            first, second = case["reduce"], case["cate_reduce"]
            soft = first["type"] == "seq_soft_nms"
            options = ReductionOptions(
                mode="soft" if soft else "category_aware" if second else "hard",
                score_thresh=first["score_thr"],
                iou_thresh=first["iou_thr"],
                sigma=first["iou_thr"] if soft else 0.5,
                max_sequences=first.get("max_seq_num", 20),
            )
            kept, reduced = reduce_sequences(scores, ious, options)
            assert kept == d[f"s{s}.{name}.kept"].tolist(), name
            want = d[f"s{s}.{name}.scores"]
            if soft:
                np.testing.assert_allclose(reduced.max(1), want, atol=1e-6)
            else:
                np.testing.assert_allclose(reduced, want[:, 1:], atol=1e-6)
    low = np.full((4, scores.shape[1]), 0.03, np.float32)
    kept, _ = reduce_sequences(low, ious[:4, :4], ReductionOptions())
    assert kept == d["all_below.kept"].tolist()


def test_masks_of_a_key_frame_are_thinned(recorded):
    from vis_projects.modeling import pairwise_mask_iou

    d = recorded("reduce")
    flat = np.unpackbits(d["masknms.masks_packed"], axis=1)[:, : 40 * 56]
    masks = torch.from_numpy(flat.reshape(-1, 40, 56))
    kept = keep_distinct(pairwise_mask_iou(masks, masks).tolist(), 0.2)
    assert kept == d["masknms.kept"].tolist()


def test_reduction_of_nothing_and_without_reduction():
    for mode in ("hard", "category_aware", "soft", "none"):
        kept, scores = reduce_sequences(
            np.zeros((0, 3)), np.zeros((0, 0)), ReductionOptions(mode=mode)
        )
        assert kept == [] and scores.shape == (0, 3)
    scores = np.array([[0.1, 0.2], [0.9, 0.0]], np.float32)
    kept, out = reduce_sequences(scores, np.ones((2, 2)), ReductionOptions(mode="none"))
    assert kept == [1, 0] and np.array_equal(out, scores[[1, 0]])
    with pytest.raises(InputError, match=r"REDUCE\.MODE"):
        ReductionOptions(mode="best")


def recorded_box_head(boxes: torch.Tensor, classes: int) -> torch.Tensor:
    """The formula that stands for the box head in the recording, on inclusive boxes (..., 4)."""
    x1, y1, x2, y2 = boxes.double().unbind(-1)
    k = torch.arange(1, classes + 2, dtype=torch.float64)
    f = [v[..., None] for v in (x1, y1, x2 - x1, y2 - y1)]
    z = torch.sin(0.37 * f[0] * k) + torch.cos(0.23 * f[1] * k) + 0.02 * f[2] * k - 0.015 * f[3] * k
    return z.softmax(-1)


def test_scores(recorded):
    d = recorded("scores")
    soft = torch.from_numpy(d["soft_times_254"]).float() / 254
    pairs = [boxes_of_masks(frame >= 0.5) for frame in soft]
    boxes, visible = (torch.stack(x) for x in zip(*pairs))
    inclusive = boxes - boxes.new_tensor([0, 0, 1, 1])
    want = torch.from_numpy(d["boxes"])
    assert torch.equal(visible, want[..., 0] >= 0)
    assert torch.equal(inclusive[visible].int(), want[visible])
    classes = int(d["classes"])
    probs = recorded_box_head(inclusive, classes)
    got = sequence_class_scores(probs, visible)
    expected = d["scores"].copy()
    np.testing.assert_allclose(got[:, 1:], expected[:, 1:], atol=1e-5)
    assert not got[~visible.any(0)].any()
    halves = sequence_class_scores(probs, visible, mean="all")
    share = visible.double().mean(0)[:, None]
    np.testing.assert_allclose(halves, got * share, atol=1e-12)


def test_boxes_equal_an_obvious_version():
    generator = torch.Generator().manual_seed(3)
    masks = torch.rand((40, 7, 9), generator=generator) > 0.93
    boxes, visible = boxes_of_masks(masks)
    for mask, box, seen in zip(masks, boxes, visible):
        assert bool(seen) == bool(mask.any())
        if seen:
            y, x = mask.nonzero().unbind(1)
            assert box.tolist() == [
                max(x.min() - 1, 0),
                max(y.min() - 1, 0),
                min(x.max() + 2, 9),
                min(y.max() + 2, 7),
            ]


@pytest.mark.usefixtures("float64")
def test_aggregation_of_one_instance_keeps_its_odds():
    p = torch.tensor([[[0.1, 0.5, 0.8, 1.0, 0.0]]])
    # Background 1 - p and instance p: logits z and -z, hence p^2 / (p^2 + (1 - p)^2).
    want = p**2 / (p**2 + (1 - p) ** 2)
    torch.testing.assert_close(aggregate(p), want, atol=1e-6, rtol=0)
    two = torch.rand(3, 4, 5)
    torch.testing.assert_close(
        aggregate_groups(two, [1, 2]), torch.cat([aggregate(two[:1]), aggregate(two[1:])])
    )
    assert aggregate_groups(two[:0], []).shape == (0, 4, 5)
