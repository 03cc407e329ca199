"""Grid, Eq. 3, heat map and losses against recorded figures and slow versions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vis_projects.srnet import losses as terms
from vis_projects.srnet.criterion import Criterion, FrameTargets
from vis_projects.srnet.heat_map import disturb, gaussian_radius, render_heat_map
from vis_projects.srnet.instance_probability import (
    activate_offset,
    bandwidth,
    distance_limit,
    embed,
    inverse_bandwidth,
    log_precision,
    probability,
    squared_distance,
)
from vis_projects.srnet.spatial_grid import sample_bilinear, spatial_grid, to_grid
from vis_projects.structures import InputError


def tensor(array) -> torch.Tensor:
    return torch.from_numpy(np.asarray(array))


@pytest.mark.recorded_cases("size", "srnet/grid.npz", r"grid_(\d+x\d+)")
def test_grid(golden, size):
    expected = np.load(golden("srnet/grid.npz"))[f"grid_{size}"]
    grid = spatial_grid(*map(int, size.split("x")))
    assert np.abs(grid.numpy() - expected).max() < 1e-6
    torch.testing.assert_close(grid, -grid.flip(1, 2), atol=1e-6, rtol=0)


def test_grid_upsampling(golden):
    recorded = np.load(golden("srnet/grid.npz"))
    size = len(recorded["upsample_false_y_col"]), len(recorded["upsample_false_x_row"])
    small, large = spatial_grid(size[0] // 4, size[1] // 4), spatial_grid(*size)
    exact = F.interpolate(small[None], size, mode="bilinear", align_corners=True)[0]
    assert (exact - large).abs().max() < 1e-6
    halfpixel = F.interpolate(small[None], size, mode="bilinear")[0]
    difference = (halfpixel - large).abs().max().item()
    assert abs(difference - float(recorded["upsample_false_maxdiff"])) < 1e-6
    assert np.abs(halfpixel[0, 0].numpy() - recorded["upsample_false_x_row"]).max() < 1e-6
    assert np.abs(halfpixel[1, :, 0].numpy() - recorded["upsample_false_y_col"]).max() < 1e-6


def test_one_cell_and_sampling():
    assert spatial_grid(1, 1).shape == (2, 1, 1)
    assert torch.isfinite(spatial_grid(1, 7)).all()
    grid = spatial_grid(5, 8)
    points = torch.tensor([[0.0, 0.0], [7.0, 4.0], [2.25, 1.5]])
    torch.testing.assert_close(sample_bilinear(grid, points), to_grid(points, 5, 8))
    assert sample_bilinear(torch.full((2, 1, 1), 3.0), torch.zeros(1, 2)).tolist() == [[3.0, 3.0]]


def test_probability(golden):
    g = np.load(golden("srnet/eq3.npz"))
    offset = activate_offset(tensor(g["z_off"]))
    sigma = bandwidth(log_precision(tensor(g["z_bw"])))
    assert np.abs(offset.numpy() - g["offset"]).max() < 1e-6
    assert np.abs(sigma.numpy() - g["sigma"]).max() < 1e-5
    embedding = embed(offset)
    rows, columns = tensor(g["seeds"]).T
    for free, name in ((2, "prob_seed_4d"), (0, "prob_seed_2d")):
        e = embedding[: 2 + free]
        inverse = inverse_bandwidth(sigma[:, rows, columns].T, g["phi"][:free])
        p = probability(squared_distance(e.flatten(1), e[:, rows, columns].T, inverse))
        assert np.abs(p.reshape(g[name].shape).numpy() - g[name]).max() < 1e-5
        if free:
            ours = p.reshape(g[name].shape).numpy()
            assert np.abs(ours - g["stemseg_prob_seed_4d"]).max() < 1e-6
    masks = tensor(g["train_masks"]).flatten(1)
    centre = terms.masked_mean(embedding.flatten(1), masks)
    inverse = inverse_bandwidth(terms.masked_mean(sigma.flatten(1), masks), g["phi"])
    p = probability(squared_distance(embedding.flatten(1), centre, inverse))
    assert np.abs(p.numpy() - g["prob_train_4d"].reshape(len(masks), -1)).max() < 1e-5


def test_distance_is_the_same_for_subsets():
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn((4, 1003), generator=generator)
    centre = torch.randn((7, 4), generator=generator)
    inverse = torch.rand((7, 4), generator=generator) + 1
    whole = squared_distance(embedding, centre, inverse)
    some = torch.arange(3, 1003, 7)
    part = squared_distance(embedding[:, some], centre[2:3], inverse[2:3])
    assert torch.equal(whole[2:3, some], part)
    assert abs(distance_limit(0.5) - 1.3862944) < 1e-6
    with pytest.raises(ValueError, match="between 0 and 1"):
        distance_limit(1.0)


@pytest.mark.recorded_cases("case", "srnet/lovasz.npz", r"value_(\d+)")
def test_lovasz(golden, case):
    g = np.load(golden("srnet/lovasz.npz"))
    logits = tensor(g[f"logits_{case}"])[None].requires_grad_()
    value = terms.lovasz_hinge(logits, tensor(g[f"labels_{case}"])[None] > 0)
    value.sum().backward()
    assert abs(value.item() - g[f"value_{case}"]) < 1e-5
    assert np.abs(logits.grad[0].numpy() - g[f"grad_{case}"]).max() < 1e-5


def loss_inputs(golden, dtype=torch.float64):
    g = np.load(golden("srnet/losses.npz"))
    raw = {
        name: tensor(g[f"z_{name}"]).to(dtype).requires_grad_()
        for name in ("offset", "bandwidth", "tracking", "objectness", "category")
    }
    masks, previous = tensor(g["masks"] & g["valid"]), tensor(g["prev_masks"])
    targets = FrameTargets(
        masks=masks,
        classes=tensor(g["classes"]),
        valid=tensor(g["valid"]),
        obj_valid=tensor(g["obj_valid"]),
        centres=mass_centres(masks, dtype),
        previous=mass_centres(previous, dtype),
        in_both=previous.flatten(1).any(1),
    )
    return g, raw, targets


def mass_centres(masks, dtype):
    centres = [
        m.nonzero().to(dtype).mean(0).flip(0) if m.any() else torch.zeros(2, dtype=dtype)
        for m in masks
    ]
    return torch.stack(centres)


VARIANTS = {
    "default": {},
    "dice": {"iou": "dice"},
    "log_sq": {"smooth": "log_sq"},
    "instance": {"objectness": "instance"},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_losses(golden, variant, dtype):
    g, raw, targets = loss_inputs(golden, dtype)
    expected = json.loads(golden("srnet/losses.json").read_text())[variant]
    out = Criterion(**VARIANTS[variant], extra_bandwidth=g["phi"].tolist())(raw, targets)
    for name, value in out.items():
        key = name.removeprefix("loss_")
        assert value.item() == pytest.approx(expected[key], rel=1e-5), key
    total = sum(out.values())
    assert total.item() == pytest.approx(expected["total"], rel=1e-5)
    if variant in ("default", "dice"):
        total.backward()
        for name in raw:
            index = g[f"fd_{variant}_{name}_index"]
            slope = raw[name].grad.flatten()[tensor(index)].numpy()
            np.testing.assert_allclose(
                slope, g[f"fd_{variant}_{name}_value"], atol=1e-5, rtol=1e-3, err_msg=name
            )


def test_tracking_loss_at_further_points(golden):
    """Vectors from every point to the previous centre cost nothing; others their mean error."""
    _, raw, targets = loss_inputs(golden)
    h, w = raw["tracking"].shape[-2:]
    shifts = torch.tensor([[0.5, -0.5], [1.25, 0.0]], dtype=torch.float64)
    targets.around = targets.centres[:, None] + shifts
    alone = targets.in_both.nonzero()[:1, 0]
    targets.in_both = torch.arange(len(targets.masks)) == alone
    there = to_grid(targets.previous[alone], h, w)[0]
    right = there[:, None, None] - spatial_grid(h, w, dtype=torch.float64)
    assert Criterion()({**raw, "tracking": right}, targets)["loss_track"] < 1e-5
    points = torch.cat([targets.centres[alone], targets.around[alone][0]])
    each = terms.tracking_errors(raw["tracking"], points, targets.previous[alone].expand(3, 2))
    loss = Criterion()(raw, targets)["loss_track"]
    torch.testing.assert_close(loss, each.mean())


def test_loss_of_nothing():
    raw = {
        "offset": torch.randn(4, 6, 9),
        "bandwidth": torch.randn(2, 6, 9),
        "tracking": torch.randn(2, 6, 9),
        "objectness": torch.randn(1, 6, 9),
        "category": torch.randn(3, 6, 9),
    }
    raw = {k: v.requires_grad_() for k, v in raw.items()}
    none = torch.zeros((0, 2))
    targets = FrameTargets(
        masks=torch.zeros((0, 6, 9), dtype=torch.bool),
        classes=torch.zeros(0, dtype=torch.int64),
        valid=torch.ones((6, 9), dtype=torch.bool),
        obj_valid=torch.ones((6, 9), dtype=torch.bool),
        centres=none,
        previous=none,
        in_both=torch.zeros(0, dtype=torch.bool),
    )
    out = Criterion()(raw, targets)
    sum(out.values()).backward()
    assert all(torch.isfinite(v) for v in out.values())
    assert {k for k, v in out.items() if v.item() != 0} == {"loss_objectness"}
    assert all(v.grad is not None and torch.isfinite(v.grad).all() for v in raw.values())


def test_invalid_cells_are_as_if_cut_away(golden):
    """The loss of a frame whose right part is invalid equals that of the left part's cells."""
    _, raw, targets = loss_inputs(golden)
    p = torch.rand(targets.masks.flatten(1).shape, dtype=torch.float64)
    valid, masks = targets.valid.flatten(), targets.masks.flatten(1) & targets.valid.flatten()
    for iou in ("lovasz", "dice"):
        criterion = Criterion(iou=iou)
        everything = torch.ones(int(valid.sum()), dtype=torch.bool)
        expected = criterion._overlap(p[:, valid], masks[:, valid], everything)
        torch.testing.assert_close(criterion._overlap(p, masks, valid), expected)


def test_unknown_choice_is_named():
    with pytest.raises(InputError, match="MODEL.SRNET.IOU 'focal' is unknown"):
        Criterion(iou="focal")


def test_heat_map(golden):
    g = np.load(golden("srnet/heatmap.npz"))
    h, w = tensor(g["box_hw"]).T
    raw = gaussian_radius(h, w)
    np.testing.assert_allclose(raw.numpy(), g["radius_raw"], rtol=1e-12)
    assert np.array_equal(raw.trunc().clamp(min=0).long().numpy(), g["radius"])
    objects = tensor(g["objects"])
    drawn = render_heat_map(
        objects[:, :2].float(), objects[:, 2], objects[:, 3], g["heatmap"].shape
    )
    assert np.abs(drawn[0].numpy() - g["heatmap"]).max() < 1e-6


def test_bowls_tell_the_way_to_the_centre():
    """1 - (d / 8)^2: differences over a 3 x 3 window are the way to the nearer centre."""
    centres, sides = torch.tensor([[10.3, 20.6], [30.0, 5.0]]), torch.tensor([8, 3])
    drawn = render_heat_map(centres, sides, sides, (41, 41), bowl=8.0)[0]
    cells = (torch.cartesian_prod(*[torch.arange(41.0)] * 2) - centres[:1].flip(1)).norm(dim=1)
    inside = (cells < 8).view(41, 41)
    assert torch.equal(drawn[:, :20] > 0, inside[:, :20]) and drawn[5, 30] == 1
    for x, y in ((7, 18), (13, 23), (10, 15)):
        way = torch.stack([drawn[y, x + 1] - drawn[y, x - 1], drawn[y + 1, x] - drawn[y - 1, x]])
        torch.testing.assert_close(way * 16, centres[0] - torch.tensor([x, y]), atol=1e-4, rtol=0)
    one = render_heat_map(centres, sides, sides, (41, 41), bowl=8.0,
                          present=torch.tensor([True, False]))  # fmt: skip
    assert one[0, 5, 30] == 0


def test_heat_map_presence_and_noise():
    centres = torch.tensor([[3.0, 4.0], [10.2, 6.7]])
    sides = torch.tensor([5, 8])
    one = render_heat_map(centres[:1], sides[:1], sides[:1], (12, 16))
    shown = torch.tensor([True, False])
    both = render_heat_map(centres, sides, sides, (12, 16), present=shown)
    assert torch.equal(one, both)
    assert render_heat_map(centres[:0], sides[:0], sides[:0], (12, 16)).sum() == 0
    n = 4000
    many = torch.full((n, 2), 50.0)
    boxes = torch.full((n,), 20)
    seeded = torch.Generator().manual_seed(0)
    moved, h, w, present = disturb(many, boxes, boxes, generator=seeded)
    assert moved.shape == (2 * n, 2) and h.shape == w.shape == (2 * n,)
    assert (moved - 50).std().item() == pytest.approx(1.0, abs=0.05)
    assert present[:n].float().mean().item() == pytest.approx(0.6, abs=0.03)
    assert present[n:].float().mean().item() == pytest.approx(0.06, abs=0.02)
