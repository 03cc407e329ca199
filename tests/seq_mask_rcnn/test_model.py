"""The whole system on a small network: caches, options, degenerate videos, training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances

from vis_projects.config import load_config
from vis_projects.engine.benchmark import moving_boxes
from vis_projects.modeling import FeatureCache
from vis_projects.seq_mask_rcnn.roi_heads import propagated_pairs
from vis_projects.structures import ArraySource, InputError

SMALL = (
    *("MODEL.FPN.OUT_CHANNELS", 32, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
    *("MODEL.SEQ_MASK_RCNN.RESULT_SCORE_THRESH", 0.0, "TEST.DETECTIONS_PER_IMAGE", 3),
    *("MODEL.SEQ_MASK_RCNN.NUM_KEY_FRAMES", 3, "MODEL.SEQ_MASK_RCNN.PROPOSAL_IOU_THRESH", 0.9),
)
CONFIG = "configs/seq_mask_rcnn/quickstart_synthetic.yaml"


def build(*opts):
    torch.manual_seed(0)
    return build_model(load_config(CONFIG, [str(x) for x in (*SMALL, *opts)])).eval()


@pytest.fixture(scope="module")
def model():
    return build()


def give_masks(model, monkeypatch, boxes, frames=None):
    """Make key frames propose boxes (x0, y0, x1, y1) instead of what the untrained head finds."""
    seen = []

    def detect(features, size):
        seen.append(1)
        if frames is not None and len(seen) - 1 not in frames:
            return torch.zeros((0, *size), dtype=torch.bool)
        masks = torch.zeros((len(boxes), *size), dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes):
            mask[y0:y1, x0:x1] = True
        return masks

    monkeypatch.setattr(model, "_detect", detect)


def video(frames: int, size=(60, 90)) -> ArraySource:
    images, _ = moving_boxes(size, 2, frames=max(frames, 1))
    return ArraySource(images[:frames], size=size, image_format="RGB")


def tracks(result):
    return [(t.id, t.category_scores, t.masks) for t in result.tracks]


def force_visible(model, value=3.0):
    """Bias the last layer so that an untrained network segments something."""
    layer = model.roi_heads.prop_head.pred2
    with torch.no_grad():
        layer.weight.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
        layer.bias.copy_(torch.tensor([0.0, value]))


BOXES = [(5, 5, 30, 30), (40, 20, 80, 50)]


@pytest.mark.parametrize("limit_mb", [0.0, 0.7])
def test_results_do_not_depend_on_the_cache(model, monkeypatch, limit_mb):
    force_visible(model)
    give_masks(model, monkeypatch, BOXES)
    model.cache = FeatureCache(float("inf"))
    want = tracks(model.run_video(video(5)))
    assert want and any(m is not None for m in want[0][2])
    model.cache = FeatureCache(limit_mb)
    assert tracks(model.run_video(video(5))) == want
    assert len(model.cache) == 0
    model.cache = FeatureCache(2048)


@pytest.mark.parametrize(("frames", "keys"), [(0, 3), (1, 3), (2, 5), (3, 0)])
def test_short_videos(model, monkeypatch, frames, keys):
    give_masks(model, monkeypatch, BOXES)
    monkeypatch.setattr(model.propose_reduce, "num_key_frames", keys)
    result = model.run_video(video(frames))
    assert result.length == frames and tuple(result.size) == (60, 90)
    assert all(len(t.masks) == frames for t in result.tracks)


def test_no_detection_at_some_or_all_key_frames(model, monkeypatch):
    force_visible(model)
    give_masks(model, monkeypatch, BOXES, frames=())
    empty = model.run_video(video(5))
    assert empty.tracks == [] and empty.length == 5
    assert not any(m.any() for m in empty.label_maps(20))
    give_masks(model, monkeypatch, BOXES, frames=(1,))
    assert model.run_video(video(5)).tracks


def test_sequences_that_vanish_are_not_reported(model, monkeypatch):
    force_visible(model, -20.0)
    give_masks(model, monkeypatch, BOXES)
    result = model.run_video(video(4))
    assert result.tracks == [] and result.length == 4
    force_visible(model)


def test_best_sequence_lies_on_top(model, monkeypatch):
    force_visible(model)
    give_masks(model, monkeypatch, BOXES)
    result = model.run_video(video(3))
    assert [t.id for t in result.tracks] == sorted((t.id for t in result.tracks), reverse=True)


def test_masks_and_options_that_are_refused(model):
    with pytest.raises(InputError, match="takes no masks"):
        model.run_video(video(2), {0: np.ones((60, 90), np.uint8)})
    for key, value in (
        ("KEY_FRAME_RULE", "first"),
        ("SCORE_MEAN", "max"),
        ("TASK", "vos"),
        ("REDUCE.MODE", "soft_nms"),
    ):
        with pytest.raises(InputError, match=key):
            build(f"MODEL.SEQ_MASK_RCNN.{key}", value)
    with pytest.raises(InputError, match="SeqPropROIHeads"):
        build("MODEL.ROI_HEADS.NAME", "StandardROIHeads")
    with pytest.raises(InputError, match="OUT_FEATURES"):
        build("MODEL.SEQ_MASK_RCNN.PROP_HEAD.SKIP_FEATURES", "['res1']")


def test_paper_preset_runs(monkeypatch):
    node = "MODEL.SEQ_MASK_RCNN."
    model = build(
        *(node + "KEY_FRAME_RULE", "paper", node + "REDO_KEY_FRAME", False),
        *(node + "SCORE_MEAN", "all", node + "PROPOSAL_IOU_THRESH", 2.0),
        *(node + "PROP_HEAD.SKIP_FEATURES", "['res2']", node + "PROP_HEAD.FUSION", "sum"),
        *(node + "REDUCE.MODE", "category_aware", node + "MEM_NUM", 2),
    )
    force_visible(model)
    give_masks(model, monkeypatch, BOXES)
    assert model.run_video(video(6)).tracks


def objects(masks, ids, classes=None) -> Instances:
    masks = torch.as_tensor(np.stack(masks)) if len(masks) else torch.zeros(0, 64, 96)
    out = Instances(tuple(masks.shape[1:]))
    out.gt_masks = BitMasks(masks.bool())
    out.gt_boxes = out.gt_masks.get_bounding_boxes()
    out.gt_boxes = Boxes(out.gt_boxes.tensor)
    out.gt_ids = torch.tensor(ids, dtype=torch.int64)
    out.gt_classes = torch.tensor(classes or [0] * len(ids), dtype=torch.int64)
    out.gt_identity = out.gt_ids.clone()
    return out


def box_mask(x0, y0, x1, y1):
    mask = np.zeros((64, 96), np.float32)
    mask[y0:y1, x0:x1] = 1
    return mask


def item(query, guidance):
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8, generator=generator) for _ in range(2)
    ]
    return {"image": images, "instances": [query, guidance]}


def test_pairs_are_objects_of_both_frames():
    a = objects(
        [box_mask(0, 0, 9, 9), box_mask(20, 20, 50, 40), box_mask(60, 5, 90, 30)], [1, 2, 3]
    )
    b = objects([np.zeros((64, 96)), box_mask(10, 10, 20, 20), box_mask(60, 5, 90, 30)], [1, 5, 3])
    guidance, query = propagated_pairs(a, b, 5)
    assert a.gt_ids[guidance].tolist() == b.gt_ids[query].tolist() == [3]
    many = objects([box_mask(8 * i, 0, 8 * i + 8, 9) for i in range(9)], list(range(1, 10)))
    guidance, query = propagated_pairs(many, many, 4)
    assert len(set(guidance.tolist())) == 4 and torch.equal(guidance, query)
    none = objects([], [])
    assert [len(x) for x in propagated_pairs(none, a, 5)] == [0, 0]
    assert [len(x) for x in propagated_pairs(a, none, 5)] == [0, 0]


def test_losses_reach_both_frames_but_not_through_the_guidance_masks():
    model = build().train()
    shape = box_mask(10, 10, 50, 40)
    losses = model([item(objects([shape], [1]), objects([shape], [1]))])
    assert set(losses) == {
        *("loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask", "loss_prop")
    }
    losses["loss_prop"].backward()
    assert model.roi_heads.mask_head.predictor.weight.grad is None
    for part in (model.roi_heads.prop_head.enc_pos, model.backbone.fpn_output2):
        assert part.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("case", ["nothing", "disjoint"])
def test_losses_without_an_object_to_propagate(case):
    model = build().train()
    shape = [] if case == "nothing" else [box_mask(10, 10, 50, 40)]
    ids = list(range(1, len(shape) + 1))
    batch = [item(objects(shape, ids), objects(shape, [i + 7 for i in ids]))]
    losses = model(batch)
    assert losses["loss_prop"].item() == 0.0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.roi_heads.prop_head.parameters())


def test_training_wants_pairs():
    model = build().train()
    with pytest.raises(InputError, match="covering_pair"):
        model([{"image": torch.zeros(3, 64, 96), "instances": objects([], [])}])


def test_half_precision_is_close(monkeypatch):
    single, half = build(), build("MODEL.INFERENCE_DTYPE", "bfloat16")
    results = []
    for model in (single, half):
        force_visible(model)
        give_masks(model, monkeypatch, BOXES)
        results.append(model.run_video(video(3)))
    a, b = (np.stack(list(r.label_maps(20))) > 0 for r in results)
    assert (a == b).mean() > 0.95


def test_still_image(model):
    frame = video(1)[0]
    found = model.detect_image(frame)
    assert found.image_size == (60, 90) and len(found) <= 3
    assert found.pred_masks.shape[1:] == (60, 90) and not found.has("pred_ids")


def test_streams_are_spooled(model, monkeypatch):
    from vis_projects.structures import IterableSource

    force_visible(model)
    give_masks(model, monkeypatch, BOXES)
    want = tracks(model.run_video(video(4)))
    images = [video(4)[t].array() for t in range(4)]
    assert tracks(model.run_video(IterableSource(iter(images), image_format="RGB"))) == want
    seen = []
    model.run_video(video(4), on_frame=lambda frame, found: seen.append((frame.index, found.index)))
    assert seen == [(t, t) for t in range(4)]
