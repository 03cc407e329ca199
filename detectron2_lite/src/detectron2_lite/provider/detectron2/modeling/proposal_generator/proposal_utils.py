"""Selection of proposals, and ground truth as proposals.

N images, L levels, R_i anchors of level i.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from detectron2.layers import batched_nms, cat
from detectron2.structures import Boxes, Instances
from torch import Tensor

__all__ = ["add_ground_truth_to_proposals", "find_top_rpn_proposals"]

# Ground truth enters the RoI heads as a proposal of this confidence.
_GT_LOGIT = math.log((1.0 - 1e-10) / (1 - (1.0 - 1e-10)))


def find_top_rpn_proposals(
    proposals: Sequence[Tensor],
    pred_objectness_logits: Sequence[Tensor],
    image_sizes: Sequence[tuple[int, int]],
    nms_thresh: float,
    pre_nms_topk: int,
    post_nms_topk: int,
    min_box_size: float,
    training: bool,
) -> list[Instances]:
    """Best ``pre_nms_topk`` of each level, clipped, NMS within levels, best ``post_nms_topk``.

    ``proposals``: per level (N, R_i, 4); ``pred_objectness_logits``: per level (N, R_i).
    Returns one Instances per image with ``proposal_boxes`` and ``objectness_logits``, best first.
    Raises FloatingPointError for non-finite predictions in training.
    """
    boxes, logits, levels = [], [], []
    for level, (box, logit) in enumerate(zip(proposals, pred_objectness_logits)):
        top, index = logit.topk(min(pre_nms_topk, logit.shape[1]), dim=1)
        boxes.append(box.gather(1, index[:, :, None].expand(-1, -1, 4)))
        logits.append(top)
        levels.append(torch.full_like(index[0], level))
    boxes, logits = cat(boxes, dim=1), cat(logits, dim=1)
    levels = cat(levels, dim=0)
    valid = torch.isfinite(boxes).all(dim=2) & torch.isfinite(logits)
    all_valid = bool(valid.all())
    if training and not all_valid:
        raise FloatingPointError("the RPN predicts boxes or scores that are not finite: diverged")
    results = []
    for i, image_size in enumerate(image_sizes):
        box, logit, level = boxes[i], logits[i], levels
        if not all_valid:
            box, logit, level = box[valid[i]], logit[valid[i]], level[valid[i]]
        box = Boxes(box)
        box.clip(image_size)
        keep = box.nonempty(threshold=min_box_size)
        box, logit, level = box[keep], logit[keep], level[keep]
        keep = batched_nms(box.tensor, logit, level, nms_thresh)[:post_nms_topk]
        result = Instances(image_size)
        result.proposal_boxes = box[keep]
        result.objectness_logits = logit[keep]
        results.append(result)
    return results


def add_ground_truth_to_proposals(
    gt: Sequence[Instances] | Sequence[Boxes], proposals: Sequence[Instances]
) -> list[Instances]:
    """Append the ground-truth boxes of each image to its proposals."""
    assert len(gt) == len(proposals), f"ground truth of {len(gt)} images, {len(proposals)} given"
    return [_append_ground_truth(g, p) for g, p in zip(gt, proposals)]


def _append_ground_truth(gt: Instances | Boxes, proposals: Instances) -> Instances:
    boxes = gt if isinstance(gt, Boxes) else gt.gt_boxes
    device = proposals.objectness_logits.device
    added = Instances(proposals.image_size)
    if isinstance(gt, Instances):
        # Fields such as gt_masks may be of use to the head; proposals must then have them too.
        for name in proposals.get_fields():
            if gt.has(name):
                added.set(name, gt.get(name))
    added.proposal_boxes = boxes
    added.objectness_logits = _GT_LOGIT * torch.ones(len(boxes), device=device)
    for name in proposals.get_fields():
        assert added.has(name), f"the ground truth lacks the proposals' field {name!r}"
    return Instances.cat([proposals, added])
