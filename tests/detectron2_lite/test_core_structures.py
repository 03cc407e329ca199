"""Boxes, masks, image batches and Instances against recorded figures and plain identities."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from detectron2.structures import (
    BitMasks,
    Boxes,
    BoxMode,
    ImageList,
    Instances,
    PolygonMasks,
    ROIMasks,
    pairwise_ioa,
    pairwise_iou,
    pairwise_point_box_distance,
)
from detectron2.structures.boxes import matched_pairwise_iou, pairwise_intersection


@pytest.fixture
def small(golden):
    return np.load(golden("detectron2/small.npz"))


def close(actual, expected):
    actual = actual.numpy() if isinstance(actual, torch.Tensor) else np.asarray(actual)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def unpack(packed, h, w):
    return np.unpackbits(packed, axis=1)[:, : h * w].reshape(-1, h, w).astype(bool)


def test_overlaps(small):
    a, b = Boxes(small["iou_a"]), Boxes(small["iou_b"])
    close(pairwise_iou(a, b), small["iou"])
    close(pairwise_ioa(a, b), small["ioa"])
    close(pairwise_intersection(a, b), small["intersection"])
    close(matched_pairwise_iou(a[:5], b), small["matched_iou"])
    close(matched_pairwise_iou(a, a), pairwise_iou(a, a).diagonal())
    empty, flat = Boxes([]), Boxes([[1, 1, 1, 1]])
    assert pairwise_iou(empty, b).shape == (0, 5) and pairwise_iou(b, empty).shape == (5, 0)
    assert pairwise_iou(flat, flat).item() == 0 and pairwise_ioa(b, flat).sum() == 0


def test_box_methods(small):
    boxes = Boxes(small["boxes_raw"])
    close(boxes.area(), small["boxes_area"])
    close(boxes.get_centers(), small["boxes_centers"])
    assert (boxes.inside_box((80, 100)).numpy() == small["boxes_inside"]).all()
    assert (boxes.inside_box((80, 100), 5).numpy() == small["boxes_inside_thr5"]).all()
    before, clipped = boxes.tensor, boxes.clone()
    clipped.clip((60, 70))
    close(clipped.tensor, small["boxes_clipped_60x70"])
    assert (clipped.nonempty().numpy() == small["boxes_nonempty"]).all()
    assert (clipped.nonempty(10).numpy() == small["boxes_nonempty_thr10"]).all()
    assert boxes.tensor is before
    boxes.scale(2, 3)
    assert boxes.tensor is before
    close(before, small["boxes_raw"] * [2, 3, 2, 3])
    boxes.tensor[0, 0] = float("inf")
    with pytest.raises(AssertionError):
        boxes.clip((60, 70))


def test_box_container():
    boxes = Boxes([[0, 0, 1, 1], [2, 2, 4, 5]])
    assert boxes.tensor.dtype == torch.float32 and len(boxes) == 2
    assert boxes[1].tensor.tolist() == [[2, 2, 4, 5]] and boxes[-1].tensor.shape == (1, 4)
    assert len(boxes[torch.tensor([True, False])]) == 1 and len(boxes[torch.tensor([1, 1, 0])]) == 3
    assert len(boxes[:0]) == 0 and [b.shape for b in boxes] == [(4,), (4,)]
    assert Boxes([]).tensor.shape == Boxes(torch.zeros(0)).tensor.shape == (0, 4)
    assert Boxes(np.zeros((3, 4), np.float64)).tensor.dtype == torch.float32
    joined = Boxes.cat([boxes])
    joined.tensor[0] = 9
    assert (
        boxes.tensor[0].sum() == 2 and len(Boxes.cat([])) == 0 and len(Boxes.cat([boxes] * 3)) == 6
    )
    with pytest.raises(AssertionError):
        Boxes([[1, 2, 3]])
    with pytest.raises(AssertionError):
        boxes[0, 1]


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_box_mode(kind):
    xyxy, xywh = BoxMode.XYXY_ABS, BoxMode.XYWH_ABS
    box = kind([1.0, 2.0, 3.0, 5.0])
    other = BoxMode.convert(box, xyxy, xywh)
    assert type(other) is type(box) and [float(x) for x in other] == [1, 2, 2, 3]
    assert [float(x) for x in BoxMode.convert(other, xywh, xyxy)] == [1, 2, 3, 5]
    assert [float(x) for x in box] == [1, 2, 3, 5]
    assert BoxMode.convert(box, xyxy, xyxy) is box
    with pytest.raises(AssertionError):
        BoxMode.convert(box, BoxMode.XYXY_REL, xyxy)
    with pytest.raises(NotImplementedError):
        BoxMode.convert(box, BoxMode.XYWHA_ABS, xyxy)
    assert [int(m) for m in BoxMode] == [0, 1, 2, 3, 4]


def test_point_box_distance():
    d = pairwise_point_box_distance(torch.tensor([[2.0, 3.0], [9.0, 9.0]]), Boxes([[0, 1, 5, 7]]))
    assert d.tolist() == [[[2, 2, 3, 4]], [[9, 8, -4, -2]]]


@pytest.fixture
def polygons(small):
    first = small["poly_first"]
    return PolygonMasks([[first[0], small["poly_0_second"]], *([p] for p in first[1:])])


def test_polygons(small, polygons):
    close(polygons.area(), small["poly_area"])
    close(polygons.get_bounding_boxes().tensor, small["poly_boxes"])
    boxes = torch.from_numpy(small["crop_boxes"])
    expected = unpack(small["poly_crop28_packed"], 28, 28)
    assert (polygons.crop_and_resize(boxes, 28).numpy() == expected).all()


def test_bitmasks(small, polygons):
    masks = BitMasks.from_polygon_masks(polygons, 80, 100)
    assert (masks.tensor.numpy() == unpack(small["poly_bitmask_packed"], 80, 100)).all()
    assert masks.tensor.flatten(1).sum(1).tolist() == small["poly_bitmask_area"].tolist()
    close(masks.get_bounding_boxes().tensor, small["bitmask_boxes"])
    cropped = masks.crop_and_resize(torch.from_numpy(small["crop_boxes"]), 28)
    assert cropped.dtype == torch.bool
    assert (cropped.numpy() == unpack(small["bitmask_crop28_packed"], 28, 28)).all()


def test_mask_containers(polygons):
    assert polygons.nonempty().all() and len(polygons[1:3]) == 2 and len(polygons[[0, 0]]) == 2
    assert len(polygons[0]) == 1 and len(polygons[0].polygons[0]) == 2
    chosen = torch.tensor([True, False, True, False, False])
    assert np.array_equal(polygons[chosen].polygons[1][0], polygons.polygons[2][0])
    assert np.array_equal(polygons[torch.tensor([2])].polygons[0][0], polygons.polygons[2][0])
    assert len(polygons[torch.zeros(5, dtype=torch.bool)]) == 0 and len(polygons[[]]) == 0
    assert len(PolygonMasks.cat([polygons, polygons[:1]])) == 6 and polygons.to("cuda") is polygons
    nothing = PolygonMasks([[]])
    assert not nothing.nonempty().any() and nothing.area().tolist() == [0]
    assert nothing.get_bounding_boxes().tensor.tolist() == [[0, 0, 0, 0]]
    assert PolygonMasks([]).crop_and_resize(torch.zeros(0, 4), 7).shape == (0, 7, 7)
    for bad in ([[np.arange(5.0)]], [[np.arange(4.0)]], [np.arange(6.0)], "x"):
        with pytest.raises(ValueError):
            PolygonMasks(bad)

    masks = BitMasks(torch.zeros(3, 4, 6))
    masks.tensor[1, 2, 3:5] = True
    assert masks.nonempty().tolist() == [False, True, False] and masks.image_size == (4, 6)
    assert masks.get_bounding_boxes().tensor.tolist()[:2] == [[0, 0, 0, 0], [3, 2, 5, 3]]
    assert masks[1].tensor.shape == (1, 4, 6) and len(BitMasks.cat([masks, masks[0:2]])) == 5
    assert masks[masks.nonempty()].tensor.sum() == 2 and len(list(masks)) == 3
    empty = BitMasks.from_polygon_masks([], 4, 6)
    assert empty.tensor.shape == (0, 4, 6) and len(empty.get_bounding_boxes()) == 0
    assert empty.crop_and_resize(torch.zeros(0, 4), 7).shape == (0, 7, 7)


def test_roi_masks_are_pasted(small):
    masks = ROIMasks(torch.from_numpy(small["paste_masks"]))
    pasted = masks.to_bitmasks(torch.from_numpy(small["paste_boxes"]), 80, 100)
    assert (pasted.tensor.numpy() == unpack(small["paste_out_packed"], 80, 100)).all()
    assert len(masks[:2]) == 2
    with pytest.raises(ValueError):
        masks[0]


def test_image_list(golden):
    recorded = json.loads(golden("detectron2/small.json").read_text())["imagelist"]
    images = [torch.ones(3, *size) for size in recorded["sizes"]]
    batch = ImageList.from_tensors(images, 32, pad_value=-1.0)
    assert list(batch.tensor.shape) == recorded["shape"]
    assert [list(s) for s in batch.image_sizes] == recorded["sizes"]
    assert float(batch.tensor.double().sum()) == recorded["sum"]
    assert len(batch) == 2 and torch.equal(batch[1], images[1])
    assert ImageList.from_tensors(images).tensor.shape == (2, 3, 40, 45)
    one = ImageList.from_tensors(images[:1], 32)
    assert one.tensor.shape == (1, 3, 32, 64) and torch.equal(one[0], images[0])
    square = ImageList.from_tensors(images, 32, padding_constraints={"square_size": 50})
    assert square.tensor.shape == (2, 3, 64, 64)
    square = ImageList.from_tensors(
        images, padding_constraints={"square_size": 50, "size_divisibility": 0}
    )
    assert square.tensor.shape == (2, 3, 50, 50)
    assert ImageList.from_tensors([torch.ones(5, 7), torch.ones(6, 4)]).tensor.shape == (2, 6, 7)


def make_instances(n=3):
    x = Instances((10, 20), names=[f"n{i}" for i in range(n)])
    x.pred_boxes = Boxes(torch.arange(4.0 * n).reshape(n, 4))
    x.scores = torch.arange(float(n))
    return x


def test_instances_fields():
    x = make_instances()
    assert len(x) == 3 and x.image_size == (10, 20) and x.has("scores") and not x.has("other")
    assert x.get("scores") is x.scores and set(x.get_fields()) == {"names", "pred_boxes", "scores"}
    x._private = 1
    assert not x.has("_private") and x._private == 1
    with pytest.raises(AssertionError):
        x.scores2 = torch.zeros(4)
    with pytest.raises(AttributeError):
        _ = x.missing
    with pytest.raises(AttributeError):
        x.image_size = (1, 1)
    x.get_fields()["extra"] = [1, 2, 3]
    assert x.extra == [1, 2, 3]
    x.remove("extra")
    assert not x.has("extra") and "num_instances=3" in str(x)
    with pytest.raises(NotImplementedError):
        iter(x)
    with pytest.raises(NotImplementedError):
        len(Instances((1, 1)))


def test_instances_indexing():
    x = make_instances()
    for index in (0, 2, -1, -3):
        one = x[index]
        assert len(one) == 1 and one.names == [x.names[index]]
        assert one.scores.item() == x.scores[index]
    for outside in (3, -4):
        with pytest.raises(IndexError):
            x[outside]
    assert x[1:].names == ["n1", "n2"] and len(x[:0]) == 0
    x.remove("names")
    assert x[torch.tensor([True, False, True])].scores.tolist() == [0, 2]
    assert x[torch.tensor([2, 2])].pred_boxes.tensor[1, 0] == 8
    assert x.to("cpu").scores.tolist() == [0, 1, 2]


def test_instances_cat_copy_pickle():
    x = make_instances()
    assert Instances.cat([x]) is x
    both = Instances.cat([x, x[:1]])
    assert both.names == ["n0", "n1", "n2", "n0"] and len(both.pred_boxes) == 4
    assert both.scores.tolist() == [0, 1, 2, 0]
    with pytest.raises(AssertionError):
        Instances.cat([x, Instances((1, 1))])
    for again in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert again.names == x.names and torch.equal(again.pred_boxes.tensor, x.pred_boxes.tensor)
        assert again.scores is not x.scores
