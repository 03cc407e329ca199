"""The whole R-50 network with filled weights against the recorded figures."""

from __future__ import annotations

import copy
import json

import fill
import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from vis_projects.crossvis.convert import convert
from vis_projects.crossvis.identity_loss import global_identity_loss, identity_scale
from vis_projects.crossvis.locations import conv3x3_at
from vis_projects.structures import ArraySource, Frame, decode_mask


def load(path):
    return dict(np.load(path))


def unpack(bits, width):
    return np.unpackbits(bits, axis=-1)[..., :width].astype(bool)


def by_cell(levels, locations, classes):
    """Row of each (level, x, y, class)."""
    rows = zip(levels.tolist(), locations.tolist(), classes.tolist())
    return {(int(l), int(x), int(y), int(c)): i for i, (l, (x, y), c) in enumerate(rows)}


def order_like(found, d):
    """Rows of ours in the recording's order; both must hold the same detections."""
    ours = by_cell(found.cells.level, found.locations, found.classes)
    theirs = by_cell(d["fpn_levels"], d["locations"], d["classes"])
    assert ours.keys() == theirs.keys()
    return [ours[key] for key in theirs]


def test_keys_and_shapes_are_the_official_ones(official, golden):
    want = json.loads(golden("crossvis/official_keys_r50.json").read_text())
    got = official.state_dict()
    assert got.keys() == want.keys() and len(got) == 397
    for key, value in got.items():
        assert list(value.shape) == want[key]["shape"], key
        assert str(value.dtype) == f"torch.{want[key]['dtype']}", key
    assert sum(p.numel() for p in official.parameters()) == 37_417_569
    converted = convert(got)
    assert got.keys() - converted.keys() == {"mask_head._iter"}
    with pytest.raises(KeyError):
        convert({"some.weight": torch.zeros(1)})


@torch.no_grad()
def test_head_and_mask_branch_equal_the_recording(official, golden, recording):
    d = load(golden("crossvis/fcos_head.npz"))
    rng = np.random.default_rng(recording("crossvis/fcos_head.npz")["seed"])
    features = {
        f"p{i + 3}": torch.from_numpy(
            rng.standard_normal((1, 256, *d[f"cls_{i}"].shape[-2:])).astype(np.float32)
        )
        for i in range(5)
    }
    out = official.proposal_generator(features)
    for i in range(5):
        for name, maps in (("cls", out.logits), ("reg", out.distances), ("ctr", out.centerness)):
            np.testing.assert_allclose(maps[i], d[f"{name}_{i}"], atol=1e-3, rtol=0)
    for i in (2, 3, 4):
        np.testing.assert_allclose(out.embeddings[i], d[f"emb_{i}"], atol=1e-3, rtol=0)
        top = official.controller(out.bbox_features[i])
        np.testing.assert_allclose(top, d[f"top_{i}"], atol=1e-3, rtol=0)
    mask_feats = official.mask_branch(features)
    np.testing.assert_allclose(mask_feats, d["mask_feats"], atol=1e-3, rtol=0)
    found = official.proposal_generator.detect(out)
    order = order_like(found, d)
    np.testing.assert_allclose(found.boxes[order], d["boxes"], atol=1e-2, rtol=0)
    np.testing.assert_allclose(found.scores[order], d["scores"], atol=1e-3, rtol=0)
    params = conv3x3_at(out.bbox_features, official.controller, found.cells)
    first = order[:10]
    np.testing.assert_allclose(params[first], d["controller_first10"], atol=1e-3, rtol=0)
    flat = torch.cat([m.permute(0, 2, 3, 1).reshape(-1, 256) for m in out.embeddings])
    embeddings = flat[found.flat][first]
    np.testing.assert_allclose(embeddings, d["embeddings_first10"], atol=1e-3, rtol=0)


@torch.no_grad()
def test_inference_equals_the_recording(official, golden):
    d = load(golden("crossvis/inference.npz"))
    height, width = d["output_size"].tolist()
    bgr = fill.frames(int(d["frame_seed"]), 1, *d["input_size"].tolist())[0][..., ::-1].copy()
    frame = Frame(torch.from_numpy(bgr).permute(2, 0, 1), output_size=(height, width))
    features = official.backbone(official.preprocess([frame]).tensor)
    for i, level in enumerate(features.values()):
        stats = [level.mean(), level.std(), level.min(), level.max()]
        np.testing.assert_allclose(stats, d[f"fpn_p{i + 3}_stats"], atol=1e-3, rtol=1e-4)
        np.testing.assert_allclose(level[0, :8, 0, 0], d[f"fpn_p{i + 3}_first8"], atol=1e-3, rtol=0)
    got = official.detect(frame)
    order = order_like(got.found, d)
    np.testing.assert_allclose(got.boxes[order], d["boxes"], atol=0.02, rtol=0)
    np.testing.assert_allclose(got.found.scores[order], d["scores"], atol=1e-3, rtol=0)
    np.testing.assert_allclose(got.embeddings[order], d["embeddings"], atol=1e-3, rtol=0)
    probabilities = official.mask_probabilities(got, torch.tensor(order[:4]))
    np.testing.assert_allclose(probabilities, d["probs_stride4_first4"], atol=2e-3, rtol=0)
    masks = official.masks(got)[order].numpy()
    pixels = height * width
    areas = masks.sum((1, 2))
    assert np.abs(areas - d["mask_areas"]).max() <= 0.002 * pixels
    want = unpack(d["masks_first24"], width)
    assert (masks[:24] != want).sum((1, 2)).max() <= 0.002 * pixels


def ground_truth(d, suffix, width, identity_of):
    masks = torch.from_numpy(unpack(d[f"masks_{suffix}"], width))
    out = Instances(tuple(masks.shape[-2:]))
    out.gt_boxes = Boxes(torch.from_numpy(d[f"boxes_{suffix}"]))
    out.gt_classes = torch.from_numpy(d[f"classes_{suffix}"])
    out.gt_masks = BitMasks(masks)
    out.gt_ids = torch.from_numpy(d[f"ids_{suffix}"]).long()
    out.gt_identity = identity_of(out.gt_ids)
    return out


def train_items(d):
    items = []
    for i, (h, w) in enumerate(d["sizes"]):
        images = fill.frames(int(d["frame_seeds"][i]), 2, int(h), int(w))[..., ::-1].copy()
        items.append(
            {
                "image": [torch.from_numpy(x).permute(2, 0, 1) for x in images],
                "instances": [ground_truth(d, f"{i}_{t}", int(w), lambda x: x - 1) for t in (0, 1)],
            }
        )
    return items


def test_train_step_equals_the_recording(official, golden, monkeypatch):
    d = load(golden("crossvis/train_step.npz"))
    model = copy.deepcopy(official).train()
    monkeypatch.setattr(model, "draw", lambda count: torch.zeros(count))
    frames = []
    train_frames = model.train_frames

    def recorded(*args, **kwargs):
        frames.append(train_frames(*args, **kwargs))
        return frames[-1]

    monkeypatch.setattr(model, "train_frames", recorded)
    losses = model.losses(train_items(d))
    assert len(losses) == 6
    for name, value in losses.items():
        assert value.item() == pytest.approx(d[name].item(), abs=1e-3), name
    for t in (0, 1):
        targets = frames[t].targets
        assert np.array_equal(targets.gt_inds, d[f"pos_gt_inds_{t}"])
        assert np.array_equal(targets.locations, d[f"pos_locations_{t}"])
        flat = torch.cat(
            [m.permute(0, 2, 3, 1).reshape(-1, 256) for m in frames[t].outputs.embeddings]
        )[targets.positive].detach()
        np.testing.assert_allclose(flat, d[f"pos_embeddings_{t}"], atol=1e-3, rtol=1e-4)
    sum(losses.values()).backward()
    gradients = {k: p.grad for k, p in model.named_parameters()}
    for name, norm in zip(d["grad_names"].tolist(), d["grad_norms"].tolist()):
        got = gradients[name].norm().item()
        assert got == pytest.approx(norm, rel=1e-2, abs=1e-6), name
    mean = model.state_dict()["proposal_generator.fcos_head.reid_pred_bn.running_mean"]
    np.testing.assert_allclose(mean, d["reid_bn_running_mean_after"], atol=1e-3, rtol=0)


def test_identity_loss_follows_from_the_recorded_embeddings(golden):
    d = load(golden("crossvis/train_step.npz"))
    classifier = torch.nn.Linear(256, 3774)
    classifier.weight.data = torch.from_numpy(fill.values("cls.weight", (3774, 256)))
    classifier.bias.data.fill_(-4.59511985)
    embeddings, ids = (
        torch.from_numpy(np.concatenate([d[f"pos_{n}_{t}"] for t in (0, 1)]))
        for n in ("embeddings", "ids")
    )
    loss = global_identity_loss(embeddings, ids.long() - 1, classifier)
    assert loss.item() == pytest.approx(d["loss_reid"].item(), abs=1e-3)
    assert identity_scale(3774) == pytest.approx(11.64693, abs=1e-5)
    none = global_identity_loss(embeddings[:0], ids[:0].long(), classifier)
    assert none.item() == 0 and none.requires_grad


def test_video_equals_the_official_results(golden):
    from .conftest import build_filled

    recorded = json.loads(golden("crossvis/video_results.json").read_text())
    model = build_filled(*recorded["opts"]).eval()
    height, width = recorded["size"]
    length = len(recorded["results"][0]["segmentations"])
    frames = fill.frames(recorded["frame_seed"], length, height, width)[..., ::-1].copy()
    result = model.run_video(ArraySource(list(frames)))
    assert len(result.tracks) == len(recorded["results"])
    for track, want in zip(result.tracks, recorded["results"]):
        assert track.category + 1 == want["category_id"]
        assert track.score == pytest.approx(want["score"], abs=1e-3)
        for mask, rle in zip(track.masks, want["segmentations"]):
            assert (mask is None) == (rle is None)
            if rle is not None:
                differs = decode_mask(mask) != decode_mask(rle)
                assert differs.sum() <= 0.005 * height * width
