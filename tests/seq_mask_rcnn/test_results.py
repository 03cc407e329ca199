"""Label maps, json entries and the converted official detector against the recordings."""

from __future__ import annotations

import json

import fill
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import ImageList

from vis_projects.config import load_config
from vis_projects.seq_mask_rcnn.convert import convert, official_to_ours
from vis_projects.seq_mask_rcnn.features import pyramid_with_stages
from vis_projects.seq_mask_rcnn.packed_tubes import PackedTubes
from vis_projects.seq_mask_rcnn.sequence_tracks import assemble_tracks
from vis_projects.structures import VideoInfo, decode_mask


@pytest.mark.parametrize("name", ["s0", "s1"])
def test_label_maps_and_json_entries(recorded, tubes_of, name):
    d = recorded("labels")
    meta = json.loads(str(d["meta"]))[int(name[1])]
    length, size = meta["T"], tuple(meta["original"])
    tubes = tubes_of(d[f"{name}.tubes_packed"], length, tuple(meta["padded"]))
    options = {"image_size": tuple(meta["image"]), "info": VideoInfo(size, length)}
    everything = list(range(meta["N"]))

    ranked = assemble_tracks(tubes, everything, d[f"{name}.scores"][:, None], **options)
    np.testing.assert_array_equal(np.stack(list(ranked.label_maps(20))), d[f"{name}.labels"])

    scores = d[f"{name}.json_scores_in"][:, 1:]
    result = assemble_tracks(tubes, everything, scores, score_thresh=0.05, **options)
    entries = [
        (track.id - 1, c + 1, score, track.masks)
        for track in sorted(result.tracks, key=lambda t: t.id)
        for c, score in sorted(track.category_scores.items())
    ]
    np.testing.assert_allclose([e[:3] for e in entries], d[f"{name}.json_entries"], rtol=1e-6)
    want = np.unpackbits(d[f"{name}.json_masks_packed"], axis=1)
    want = want.reshape(len(entries), -1)[:, : length * size[0] * size[1]]
    for entry, flat in zip(entries, want.reshape(-1, length, *size)):
        for rle, mask in zip(entry[3], flat):
            got = np.zeros(size, bool) if rle is None else decode_mask(rle)
            np.testing.assert_array_equal(got, mask.astype(bool))


def test_nothing_found_gives_empty_maps():
    tubes = PackedTubes(0, 2, (32, 32))
    result = assemble_tracks(
        tubes, [], np.zeros((0, 3)), image_size=(30, 32), info=VideoInfo((60, 64), 2)
    )
    assert result.tracks == [] and result.length == 2
    assert [m.shape for m in result.label_maps(20)] == [(60, 64)] * 2


def test_converted_checkpoint_equals_the_recording(golden, recorded, recording):
    keys = json.loads(golden("seq_mask_rcnn/official_keys_r50.json").read_text())["entries"]
    official = {k: torch.from_numpy(fill.values(k, tuple(shape))) for k, shape, *_ in keys}
    for key, _, name, _ in keys:
        if name is not None:
            name = name.replace("seq_prop_head.", "roi_heads.prop_head.")
            assert official_to_ours(key) == name
    cfg = load_config("configs/seq_mask_rcnn/official_R50_ytvis2019.yaml", ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg).eval()
    state = convert(official)
    assert state.keys() == {k for k in model.state_dict() if "num_batches" not in k}
    model.load_state_dict(state)
    d = recorded("convert_r50")
    used = recording("seq_mask_rcnn/convert_r50.npz")
    image = torch.from_numpy(fill.frames(used["seed"], 1, *used["size"])[0]).permute(2, 0, 1)
    images = model.preprocess.normalise([image])
    with torch.no_grad():
        maps = pyramid_with_stages(model.backbone, images.tensor)
        for level in (2, 3, 4, 5, 6):
            np.testing.assert_allclose(maps[f"p{level}"][0, :8], d[f"P{level}_ch0to7"], atol=1e-4)
            if level < 6:
                got = maps[f"res{level}"][0, :8]
                np.testing.assert_allclose(got, d[f"C{level}_ch0to7"], atol=1e-4)
        rpn = model.proposal_generator
        logits, deltas = rpn.rpn_head([maps[f"p{level}"] for level in (2, 3, 4, 5, 6)])
        for level, a, b in zip((2, 3, 4, 5, 6), logits, deltas):
            np.testing.assert_allclose(a[0], d[f"rpn_cls_P{level}"], atol=1e-4)
            np.testing.assert_allclose(b[0], d[f"rpn_reg_P{level}"], atol=1e-4)
        heads = model.roi_heads
        roi7 = fill.values("in.roi7", (4, 256, 7, 7)) * np.sqrt(256 * 49)
        scores, boxes = heads.box_predictor(
            heads.box_head(torch.from_numpy(roi7.astype(np.float32)))
        )
        np.testing.assert_allclose(scores.roll(1, 1), d["box_cls"], atol=1e-4)
        np.testing.assert_allclose(boxes, d["box_reg"][:, 4:], atol=1e-4)
        roi14 = fill.values("in.roi14", (2, 256, 14, 14)) * np.sqrt(256 * 196)
        masks = heads.mask_head.layers(torch.from_numpy(roi14.astype(np.float32)))
        np.testing.assert_allclose(masks[:, :3], d["mask_logits_ch0to3"][:, 1:], atol=1e-4)
        # The whole detector runs with the old boxes.
        found = model._detections(maps, tuple(images.image_sizes[0]))
        assert len(found) <= 10 and isinstance(images, ImageList)


def test_other_checkpoints_are_refused():
    with pytest.raises(KeyError, match="unexpected"):
        convert({"backbone.conv9.weight": torch.zeros(1)})
    with pytest.raises(KeyError, match="backbone"):
        convert({"prop_head.pred2.weight": torch.zeros(1)})


def test_old_anchors():
    from vis_projects.seq_mask_rcnn.inclusive_boxes import (
        InclusiveAnchorGenerator,
        SymmetricBox2BoxTransform,
    )

    generator = InclusiveAnchorGenerator(
        sizes=[[32], [64], [128], [256], [512]],
        aspect_ratios=[[0.5, 1.0, 2.0]],
        strides=[4, 8, 16, 32, 64],
    )
    want = {
        4: [[-21, -9, 24, 12], [-14, -14, 17, 17], [-9, -21, 12, 24]],
        8: [[-41, -19, 48, 26], [-28, -28, 35, 35], [-19, -41, 26, 48]],
        16: [[-83, -37, 98, 52], [-56, -56, 71, 71], [-37, -83, 52, 98]],
        32: [[-165, -75, 196, 106], [-112, -112, 143, 143], [-75, -165, 106, 196]],
        64: [[-330, -149, 393, 212], [-224, -224, 287, 287], [-149, -330, 212, 393]],
    }
    for stride, anchors in zip(want, generator([torch.zeros(1, 1, 1, 1)] * 5)):
        inclusive = anchors.tensor - torch.tensor([0, 0, 1, 1])
        assert inclusive.tolist() == want[stride]
    box = torch.tensor([[0.0, 0.0, 1000.0, 1000.0]])
    small = SymmetricBox2BoxTransform((1.0, 1.0, 1.0, 1.0)).apply_deltas(
        torch.tensor([[0.0, 0.0, -9.0, 9.0]]), box
    )
    assert small[0, 2] - small[0, 0] == pytest.approx(16.0, rel=1e-4)
    assert small[0, 3] - small[0, 1] == pytest.approx(62500.0, rel=1e-4)
