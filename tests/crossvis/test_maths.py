"""Mask head, enlargement, targets, losses and crossover against the recorded figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch import nn
from torch.nn import functional as F

from vis_projects.crossvis.crossover import borrow
from vis_projects.crossvis.dynamic_mask_head import DynamicMaskHead
from vis_projects.crossvis.fcos import FCOS
from vis_projects.crossvis.fcos_head import HeadOutputs
from vis_projects.crossvis.fcos_targets import TargetAssigner, centre_of_mass
from vis_projects.crossvis.locations import Cells, conv3x3_at
from vis_projects.crossvis.mask_targets import sampled_masks
from vis_projects.modeling.aligned_bilinear import aligned_bilinear
from vis_projects.modeling.losses import (
    class_focal_loss,
    dice_loss,
    ltrb_iou,
    sigmoid_focal_loss,
)

STRIDES = (8, 16, 32, 64, 128)
LIMITS = (64, 128, 256, 512)
SIZE = (384, 640)  # of the cases that are not recorded


def levels_of(size) -> list[tuple[int, int]]:
    """Sizes of the feature maps of a picture."""
    return [tuple(-(-int(side) // stride) for side in size) for stride in STRIDES]


def tensors(path):
    return {k: torch.from_numpy(v) for k, v in np.load(path).items()}


def unpack(bits: torch.Tensor, width: int) -> torch.Tensor:
    return torch.from_numpy(np.unpackbits(bits.numpy(), axis=-1)[..., :width]).bool()


def objects(size, boxes, classes, masks=None) -> Instances:
    out = Instances(tuple(size))
    out.gt_boxes = Boxes(boxes.float())
    out.gt_classes = classes.long()
    if masks is not None:
        out.gt_masks = BitMasks(masks)
    return out


def assigner() -> TargetAssigner:
    return TargetAssigner(strides=STRIDES, sizes_of_interest=LIMITS, num_classes=40)


# Dynamic mask head ------------------------------------------------------------------------------


@pytest.fixture
def head_data(golden):
    return tensors(golden("crossvis/dynamic_mask_head.npz"))


def test_mask_head_equals_the_recording(head_data):
    d = head_data
    head = DynamicMaskHead()
    args = (d["mask_feats"], d["params"], d["locations"], d["fpn_levels"], d["im_inds"])
    torch.testing.assert_close(
        head.logits_at_feature_stride(*args), d["logits_stride8"], atol=1e-4, rtol=0
    )
    logits = head(*args)
    torch.testing.assert_close(logits, d["logits_stride4"], atol=1e-4, rtol=0)
    torch.testing.assert_close(logits.sigmoid(), d["probs_stride4"], atol=1e-4, rtol=0)


def test_mask_head_splits_weights_before_biases(head_data):
    weights, biases = DynamicMaskHead().split(head_data["params"])
    for i in range(3):
        assert torch.equal(weights[i][0], head_data[f"layer{i}_weight_inst0"])
        assert torch.equal(biases[i][0, :, 0], head_data[f"layer{i}_bias_inst0"])


def wide(d: dict) -> dict:
    return {k: v.double() if v.is_floating_point() else v for k, v in d.items()}


@pytest.mark.usefixtures("float64")
def test_mask_head_equals_a_convolution_per_instance(head_data):
    d = wide(head_data)
    head = DynamicMaskHead()
    weights, biases = head.split(d["params"])
    got = head.logits_at_feature_stride(
        d["mask_feats"], d["params"], d["locations"], d["fpn_levels"], d["im_inds"]
    )
    sizes = [64, 128, 256, 512, 1024]
    for n in range(len(d["params"])):
        h, w = d["mask_feats"].shape[-2:]
        x = torch.zeros(10, h, w)
        for i in range(h):
            for j in range(w):
                x[0, i, j] = (d["locations"][n, 0] - (8 * j + 4)) / sizes[d["fpn_levels"][n]]
                x[1, i, j] = (d["locations"][n, 1] - (8 * i + 4)) / sizes[d["fpn_levels"][n]]
        x[2:] = d["mask_feats"][d["im_inds"][n]]
        for k in range(3):
            x = F.conv2d(x[None], weights[k][n][:, :, None, None], biases[k][n, :, 0])[0]
            x = x.relu() if k < 2 else x
        # relative positions are made in float32: their last digits are all that may differ
        torch.testing.assert_close(got[n], x[0], atol=1e-4, rtol=1e-5)


@pytest.mark.usefixtures("float64")
def test_mask_head_of_one_image_and_of_no_instance(head_data):
    d = wide(head_data)
    head = DynamicMaskHead()
    one = d["im_inds"] == 0
    args = (d["params"][one], d["locations"][one], d["fpn_levels"][one])
    torch.testing.assert_close(
        head(d["mask_feats"][:1], *args),
        head(d["mask_feats"], *args, d["im_inds"][one]),
    )
    none = [a[:0] for a in args]
    shape = (0, *d["logits_stride4"].shape[-2:])
    assert head(d["mask_feats"][:1], *none).shape == shape
    assert head(d["mask_feats"], *none, d["im_inds"][:0]).shape == shape


@pytest.mark.parametrize("factor", [2, 4])
def test_enlargement_equals_the_recording(head_data, factor):
    got = aligned_bilinear(head_data["up_in"], factor)
    torch.testing.assert_close(got, head_data[f"up_out{factor}"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8])
def test_enlargement_follows_its_formula(factor):
    x = torch.randn(1, 1, 1, 6, generator=torch.Generator().manual_seed(0))
    got = aligned_bilinear(x, factor)[0, 0, -1]
    for i in range(6 * factor):
        p = min(max((i - factor // 2) / factor, 0), 5)
        low = int(p)
        high = min(low + 1, 5)
        want = x[0, 0, 0, low] * (1 - (p - low)) + x[0, 0, 0, high] * (p - low)
        assert got[i].item() == pytest.approx(want.item(), abs=1e-5)


# Targets and losses -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mass", "box"])
def test_targets_equal_the_recording(golden, kind):
    d = tensors(golden("crossvis/fcos_targets.npz"))
    images, size = [], d["size"].tolist()
    for i in (0, 1, 2):
        if i == 1:
            masks = torch.zeros(0, *size, dtype=torch.bool) if kind == "mass" else None
            images.append(objects(size, torch.zeros(0, 4), torch.zeros(0), masks))
            continue
        masks = unpack(d[f"masks_{i}"], size[1]) if kind == "mass" else None
        images.append(objects(size, d[f"boxes_{i}"], d[f"classes_{i}"], masks))
    got = assigner()(levels_of(size), images)
    assert torch.equal(got.labels, d[f"{kind}_labels"].long())
    assert torch.equal(got.positive, d[f"{kind}_pos"])
    assert torch.equal(got.gt_inds, d[f"{kind}_gt_inds"])
    assert torch.equal(got.cells.level, d[f"{kind}_levels"])
    assert torch.equal(got.cells.image, d[f"{kind}_im_inds"])
    assert torch.equal(got.locations, d[f"{kind}_locations"])
    torch.testing.assert_close(got.distances, d[f"{kind}_reg"], atol=1e-5, rtol=0)
    torch.testing.assert_close(got.centerness, d[f"{kind}_ctr"], atol=1e-5, rtol=0)


def test_targets_without_any_object_are_background():
    empty = objects(SIZE, torch.zeros(0, 4), torch.zeros(0))
    got = assigner()(levels_of(SIZE), [empty, empty])
    assert len(got) == 0 and (got.labels == 40).all() and len(got.labels) == 2 * 5115


def test_centre_of_mass_is_the_mean_pixel_index():
    mask = torch.zeros(2, 5, 7, dtype=torch.bool)
    mask[0, 2, 3] = mask[0, 2, 6] = mask[0, 4, 6] = True
    assert torch.allclose(centre_of_mass(mask), torch.tensor([[5.0, 8 / 3], [0.0, 0.0]]))


def fcos(**overrides) -> FCOS:
    return FCOS(
        head=nn.Identity(),
        in_features=["p3", "p4", "p5", "p6", "p7"],
        strides=STRIDES,
        assigner=assigner(),
        **overrides,
    )


def test_fcos_losses_equal_the_recording(golden, recording):
    d = tensors(golden("crossvis/fcos_targets.npz"))
    want = tensors(golden("crossvis/fcos_losses.npz"))
    size = d["size"].tolist()
    images = [
        objects(size, d[f"boxes_{i}"], d[f"classes_{i}"], unpack(d[f"masks_{i}"], size[1]))
        for i in (0, 2)
    ]
    rng = np.random.default_rng(recording("crossvis/fcos_losses.npz")["seed"])
    outputs = HeadOutputs([], [], [], [], [])
    for h, w in levels_of(size):
        draw = lambda c, h=h, w=w: rng.standard_normal((2, c, h, w))  # noqa: E731
        outputs.logits.append(torch.from_numpy(draw(40).astype(np.float32) - 3))
        outputs.distances.append(torch.from_numpy(np.abs(3 * draw(4)).astype(np.float32)))
        outputs.centerness.append(torch.from_numpy(draw(1).astype(np.float32)))
    model = fcos()
    targets = model.assign(outputs, images)
    assert len(targets) == want["num_pos"]
    assert torch.equal(targets.gt_inds, want["gt_inds"])
    torch.testing.assert_close(targets.centerness, want["gt_ctrs"], atol=1e-4, rtol=0)
    assert targets.centerness.sum().item() == pytest.approx(want["loss_denorm"].item(), abs=1e-4)
    distances = torch.cat([m.permute(0, 2, 3, 1).reshape(-1, 4) for m in outputs.distances])
    iou, giou = ltrb_iou(distances[targets.positive], targets.distances)
    torch.testing.assert_close(iou, want["ious"], atol=1e-4, rtol=0)
    torch.testing.assert_close(giou, want["gious"], atol=1e-4, rtol=0)
    losses = model.losses(outputs, targets)
    for name in ("loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"):
        assert losses[name].item() == pytest.approx(want[name].item(), abs=1e-4)


def test_fcos_losses_without_positives_are_finite_and_have_gradients():
    outputs = HeadOutputs([], [], [], [], [])
    for h, w in levels_of(SIZE):
        outputs.logits.append(torch.zeros(1, 40, h, w, requires_grad=True))
        outputs.distances.append(torch.ones(1, 4, h, w, requires_grad=True))
        outputs.centerness.append(torch.zeros(1, 1, h, w, requires_grad=True))
    model = fcos()
    targets = model.assign(outputs, [objects(SIZE, torch.zeros(0, 4), torch.zeros(0))])
    losses = model.losses(outputs, targets)
    assert losses["loss_fcos_loc"] == 0 and losses["loss_fcos_ctr"] == 0
    sum(losses.values()).backward()
    assert all(m.grad is not None for m in (*outputs.logits, *outputs.distances))


def test_focal_loss_equals_its_formula():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(7, 3, generator=generator)
    labels = torch.tensor([0, 1, 2, 3, 3, 0, 1])
    want = 0.0
    for row, label in zip(logits.sigmoid().double(), labels.tolist()):
        for c, p in enumerate(row.tolist()):
            p_t, a = (p, 0.25) if c == label else (1 - p, 0.75)
            want -= a * (1 - p_t) ** 2 * np.log(p_t)
    assert class_focal_loss(logits, labels).item() == pytest.approx(want, rel=1e-5)
    one_hot = F.one_hot(labels, 4)[:, :3]
    assert sigmoid_focal_loss(logits, one_hot).item() == pytest.approx(want, rel=1e-5)


def test_dice_is_zero_for_equal_masks_and_one_for_disjoint_ones():
    a = torch.zeros(2, 4, 4)
    a[:, :2] = 1
    b = a.clone()
    b[1] = a[1].flip(0)
    torch.testing.assert_close(dice_loss(a, b), torch.tensor([0.0, 1.0]), atol=1e-5, rtol=0)
    assert dice_loss(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)).item() == 1.0


@pytest.mark.usefixtures("float64")
def test_convolution_at_cells_equals_the_dense_one():
    generator = torch.Generator().manual_seed(3)
    maps = [torch.randn(2, 6, h, w, generator=generator) for h, w in ((5, 7), (3, 4), (1, 1))]
    conv = nn.Conv2d(6, 9, 3, padding=1)
    dense = [conv(m) for m in maps]
    spots = [(0, 0, 0, 0), (0, 1, 4, 6), (1, 1, 2, 3), (1, 0, 1, 2), (2, 1, 0, 0)]
    cells = Cells(*torch.tensor(spots).T)
    got = conv3x3_at(maps, conv, cells)
    want = torch.stack([dense[l][b, :, y, x] for l, b, y, x in spots])
    torch.testing.assert_close(got, want)
    assert conv3x3_at(maps, conv, cells[torch.zeros(0, dtype=torch.int64)]).shape == (0, 9)


# Crossover --------------------------------------------------------------------------------------


def test_crossover_equals_the_recording(golden):
    d = tensors(golden("crossvis/crossover.npz"))
    head = DynamicMaskHead()
    feats = [d[f"mask_feats_{t}"].requires_grad_() for t in (0, 1)]
    params = [d[f"params_{t}"].requires_grad_() for t in (0, 1)]
    masks, partner, size = [], [], d["size"].tolist()
    for t in (0, 1):
        images = [
            objects(
                size,
                d[f"boxes_{t}_{i}"],
                torch.zeros(len(d[f"boxes_{t}_{i}"])),
                unpack(d[f"masks_{t}_{i}"], size[1]),
            )
            for i in (0, 1)
        ]
        masks.append(sampled_masks(images, tuple(size), 4))
        partner.append(torch.cat([d[f"rel_ids_{t}_{i}"].long() for i in (0, 1)]))

    def dice(lender, where, rows, params_of):
        logits = head(
            feats[where],
            params[lender][params_of],
            d[f"locations_{where}"][rows],
            d[f"fpn_levels_{where}"][rows],
            d[f"im_inds_{where}"][rows],
        )
        return logits.sigmoid()

    for t in (0, 1):
        rows = torch.arange(len(d[f"gt_inds_{t}"]))
        losses = dice_loss(dice(t, t, rows, rows), masks[t][d[f"gt_inds_{t}"]])
        torch.testing.assert_close(losses, d[f"dice_per_positive_{t}"], atol=1e-5, rtol=0)
        assert losses.mean().item() == pytest.approx(d[f"loss_mask_{t}"].item(), abs=1e-5)
    total = 0
    for lender, where in ((1, 0), (0, 1)):
        pairs = borrow(
            d[f"gt_inds_{lender}"],
            d[f"gt_inds_{where}"],
            partner[lender],
            torch.zeros(len(d[f"gt_inds_{lender}"])),
        )
        prefix = f"borrow_on_frame{where}_"
        assert torch.equal(pairs.target, d[prefix + "gt_inds"])
        assert torch.equal(d[f"im_inds_{where}"][pairs.place], d[prefix + "im_inds"])
        assert torch.equal(d[f"locations_{where}"][pairs.place], d[prefix + "locations"].float())
        assert torch.equal(d[f"fpn_levels_{where}"][pairs.place], d[prefix + "fpn_levels"])
        probabilities = dice(lender, where, pairs.place, pairs.lender)
        total = total + dice_loss(probabilities, masks[where][pairs.target]).mean() / 2
    assert total.item() == pytest.approx(d["loss_cross_over"].item(), abs=1e-5)
    total.backward()
    torch.testing.assert_close(feats[0].grad, d["grad_mask_feats_0"], atol=1e-6, rtol=0)
    torch.testing.assert_close(params[1].grad, d["grad_params_1"], atol=1e-6, rtol=0)


def test_borrowing_draws_every_positive_of_the_partner_and_no_other():
    objects_b = torch.tensor([2, 0, 2, 1, 2])
    objects_a = torch.zeros(300, dtype=torch.int64)
    pairs = borrow(objects_a, objects_b, torch.tensor([2]), torch.linspace(0, 1 - 1e-6, 300))
    assert torch.equal(
        torch.bincount(pairs.place, minlength=5), torch.tensor([100, 0, 100, 0, 100])
    )


def test_borrowing_without_a_common_object_gives_nothing():
    none = torch.zeros(0, dtype=torch.int64)
    some = torch.tensor([0, 0])
    for a, b, partner in (
        (some, some, [-1]),
        (none, some, [0]),
        (some, none, [0]),
        (some, some + 1, [0]),
    ):
        pairs = borrow(a, b, torch.tensor(partner), torch.zeros(len(a)))
        assert len(pairs.lender) == len(pairs.place) == len(pairs.target) == 0
