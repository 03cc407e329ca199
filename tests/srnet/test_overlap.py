"""Annotated masks that overlap (COCO's do): every cell has one owner, the smallest mask."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from vis_projects.srnet.criterion import Criterion
from vis_projects.srnet.losses import category_loss
from vis_projects.srnet.targets import (
    HeatMapNoise,
    frame_targets,
    one_owner,
    training_heat_map,
)

SIZE = (64, 96)
CLASSES = 40
# Elephants that share a strip, a small bird before the second, and a copy of the first mask.
CORNERS = ((8, 56, 4, 52), (8, 56, 44, 92), (24, 40, 60, 76), (8, 56, 4, 52))
LABELS = (31, 31, 39, 12)


def frame(*rows: int) -> Instances:
    masks = torch.zeros((len(rows), *SIZE), dtype=torch.bool)
    for mask, k in zip(masks, rows):
        y0, y1, x0, x1 = CORNERS[k]
        mask[y0:y1, x0:x1] = True
    out = Instances(SIZE)
    out.gt_masks = BitMasks(masks)
    out.gt_boxes = Boxes(torch.zeros((len(rows), 4)))
    out.gt_ids = torch.tensor(rows) + 1
    out.gt_classes = torch.tensor([LABELS[k] for k in rows])
    return out


def perfect_logits(targets) -> torch.Tensor:
    """Logits that name the right class in every cell of an instance."""
    logits = torch.zeros((CLASSES, *targets.masks.shape[-2:]))
    for mask, label in zip(targets.masks, targets.classes):
        logits[label, mask] = 50.0
    return logits


def raw_outputs(targets) -> dict[str, torch.Tensor]:
    h, w = targets.masks.shape[-2:]
    torch.manual_seed(0)
    channels = {"offset": 4, "bandwidth": 2, "tracking": 2, "objectness": 1}
    raw = {name: torch.randn((c, h, w)) for name, c in channels.items()}
    return {**raw, "category": perfect_logits(targets)}


def test_the_smallest_mask_owns_a_shared_cell():
    now = frame(0, 1, 2)
    targets = frame_targets(now, now, SIZE)
    assert targets.masks.sum(0).max() == 1
    bird = targets.classes.tolist().index(39)
    assert targets.masks[bird].sum() == 16  # whole, though an elephant covers it
    assert targets.masks.any(0).sum() == 12 * 22  # and nothing of the union is lost
    for mask, centre in zip(targets.masks, targets.centres):
        rows, columns = mask.nonzero().float().mean(0)
        torch.testing.assert_close(centre, torch.stack([columns, rows]))


def test_order_of_the_rows_does_not_matter_and_a_covered_copy_goes():
    one = frame_targets(frame(0, 1, 2), frame(0, 1, 2), SIZE)
    other = frame_targets(frame(2, 0, 1), frame(1, 2, 0), SIZE)
    by_class = {int(c): m for c, m in zip(other.classes, other.masks) if c == 39}
    assert torch.equal(by_class[39], one.masks[2])
    copy = frame_targets(frame(0, 3), frame(0, 3), SIZE)
    assert copy.classes.tolist() == [31]  # equal masks: the first; the other keeps no cell
    masks = torch.tensor([[[True, True]], [[False, True]], [[True, True]]])
    owned = one_owner(masks, masks.flatten(1).sum(1))
    assert owned.tolist() == [[[True, False]], [[False, True]], [[False, False]]]


@pytest.mark.parametrize("iou", ["lovasz", "dice"])
def test_losses_of_overlapping_masks_of_many_classes(iou):
    """Classes whose numbers add to 40 or more crashed, others were taught a third class."""
    now = frame(0, 1, 2)
    targets = frame_targets(now, now, SIZE)
    raw = raw_outputs(targets)
    out = Criterion(iou=iou)(raw, targets)
    assert out["loss_category"] < 1e-6
    assert all(torch.isfinite(v) for v in out.values())
    # What overlapped is as if the annotation had been disjoint.
    disjoint = frame(0, 1, 2)
    disjoint.gt_masks.tensor[1] &= ~now.gt_masks.tensor[2] & ~now.gt_masks.tensor[0]
    again = Criterion(iou=iou)(raw, frame_targets(disjoint, disjoint, SIZE))
    for name in out:
        torch.testing.assert_close(out[name], again[name])


def test_objectness_is_never_asked_for_more_than_one():
    """Also where masks come in overlapping from elsewhere than ``frame_targets``."""
    targets = frame_targets(frame(0), frame(0), SIZE)
    for name in ("masks", "classes", "centres", "previous", "in_both"):
        value = getattr(targets, name)
        setattr(targets, name, torch.cat([value, value]))
    raw = raw_outputs(targets)
    raw["offset"] = torch.zeros_like(raw["offset"])
    raw["bandwidth"] = torch.full_like(raw["bandwidth"], -6.0)  # P = 1 nearly everywhere
    raw["objectness"] = torch.where(targets.masks.any(0), 50.0, -50.0)[None]
    out = Criterion()(raw, targets)
    assert out["loss_objectness"] < 1e-3 and out["loss_category"] < 1e-6


def test_a_cell_of_an_unmapped_owner_teaches_no_class():
    masks = torch.tensor([[True, True, False], [False, True, True]])
    logits = torch.zeros((3, 3))
    logits[2, 2] = 50.0
    assert category_loss(logits, masks, torch.tensor([-1, 2])) < 1e-6
    assert category_loss(logits, masks, torch.tensor([-1, -1])) == 0


def test_heat_map_has_the_centres_of_the_targets():
    now = frame(1, 2)
    drawn = training_heat_map(now, SIZE, HeatMapNoise(0.0, 0.0, 0.0))
    centres = (frame_targets(now, now, SIZE).centres + 0.5).floor().long()
    assert (drawn[0][centres[:, 1], centres[:, 0]] == 1).all()
