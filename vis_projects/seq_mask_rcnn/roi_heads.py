"""ROI heads with a Seq-Prop head beside the box and the mask head (Propose-Reduce, section 3.1.3).

Letters: N images, R instances of all images, C foreground classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec, paste_masks_in_image
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import Boxes, Instances

from ..structures import InputError
from .aggregation import aggregate_groups
from .guidance import paste_in_integer_boxes
from .seq_prop_head import SeqPropHead, positions_first, rows_of
from .soft_iou_loss import soft_iou_loss

Features = Mapping[str, torch.Tensor]


@ROI_HEADS_REGISTRY.register()
class SeqPropROIHeads(StandardROIHeads):
    """Box, mask and sequence propagation heads.

    Args:
        prop_head: the Seq-Prop head.
        max_train_instances: instances of a training pair that are propagated at most.
        prop_weight: factor of ``loss_prop``.
        integer_paste: proposals are pasted into integer boxes (official checkpoints).
        heads: the arguments of ``StandardROIHeads``.
    """

    @configurable
    def __init__(
        self,
        *,
        prop_head: SeqPropHead,
        max_train_instances: int = 5,
        prop_weight: float = 1.0,
        integer_paste: bool = False,
        **heads,
    ) -> None:
        super().__init__(**heads)
        if not self.mask_on:
            raise InputError("SeqPropROIHeads needs the mask head: set MODEL.MASK_ON True")
        self.prop_head = prop_head
        self.max_train_instances = max_train_instances
        self.prop_weight = prop_weight
        self.integer_paste = integer_paste

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict:
        node = cfg.MODEL.SEQ_MASK_RCNN
        return {
            **super().from_config(cfg, input_shape),
            "prop_head": SeqPropHead(cfg, input_shape),
            "max_train_instances": node.PROP_HEAD.MAX_TRAIN_INSTANCES,
            "prop_weight": node.PROP_HEAD.LOSS_WEIGHT,
            "integer_paste": node.INCLUSIVE_BOXES,
        }

    # Training ------------------------------------------------------------------------------------

    def propagation_loss(
        self,
        guidance: Features,
        guidance_objects: Sequence[Instances],
        query: Features,
        query_objects: Sequence[Instances],
    ) -> torch.Tensor:
        """Loss of carrying the objects of guidance frames to query frames.

        Args:
            guidance, query: features of N frames each, with P2 and the skip stages.
            guidance_objects: ``gt_boxes, gt_classes, gt_ids`` of the guidance frames.
            query_objects: ``gt_masks, gt_ids`` of the query frames.

        Returns:
            Mean soft IoU loss over all instances of all images, scalar.
        """
        pairs = [
            propagated_pairs(g, q, self.max_train_instances)
            for g, q in zip(guidance_objects, query_objects)
        ]
        counts = [len(rows) for rows, _ in pairs]
        if sum(counts) == 0:  # every parameter stays in the graph
            return sum(p.sum() for p in self.prop_head.parameters()) * 0.0
        size = tuple(4 * n for n in query["p2"].shape[-2:])
        chosen = [g[rows] for g, (rows, _) in zip(guidance_objects, pairs)]
        masks = self.guidance_masks(guidance, chosen, size)
        device = masks.device
        owners = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        owners = owners.to(device)
        head = self.prop_head
        keys, values = head.memorize(guidance["p2"][owners], masks)
        frames = rows_of(head.query(query), owners)
        soft = head.segment(frames, positions_first(keys), positions_first(values))
        soft = aggregate_groups(soft, counts)
        targets = soft.new_zeros(soft.shape)
        at = 0
        for q, (_, rows) in zip(query_objects, pairs):
            truth = q.gt_masks.tensor[rows]
            targets[at : at + len(rows), : truth.shape[1], : truth.shape[2]] = truth.to(soft.dtype)
            at += len(rows)
        return self.prop_weight * soft_iou_loss(soft, targets).mean()

    @torch.no_grad()
    def guidance_masks(
        self, features: Features, objects: Sequence[Instances], size: tuple[int, int]
    ) -> torch.Tensor:
        """Soft masks (R, H, W) that the mask head gives for ground-truth boxes, detached."""
        boxes = [x.gt_boxes for x in objects]
        classes = torch.cat([x.gt_classes for x in objects])
        probabilities = self._mask_probabilities(features, boxes, classes)
        inclusive = torch.cat([b.tensor for b in boxes])
        inclusive = inclusive - inclusive.new_tensor([0, 0, 1, 1])
        return paste_in_integer_boxes(probabilities, inclusive, size)

    def _mask_probabilities(
        self, features: Features, boxes: Sequence[Boxes], classes: torch.Tensor
    ) -> torch.Tensor:
        """Mask probabilities (R, S, S) of given classes in given boxes of N images."""
        maps = [features[f] for f in self.mask_in_features]
        logits = self.mask_head.layers(self.mask_pooler(maps, list(boxes))).float()
        if logits.shape[1] == 1:
            return logits[:, 0].sigmoid()
        return logits[torch.arange(len(classes), device=classes.device), classes].sigmoid()

    # Inference -----------------------------------------------------------------------------------

    def proposal_masks(self, detections: Instances) -> torch.Tensor:
        """Masks bool (O, h, w) of one image's detections with ``pred_masks`` (O, 1, S, S)."""
        probabilities = detections.pred_masks[:, 0].float()
        if self.integer_paste:
            boxes = detections.pred_boxes.tensor
            boxes = boxes - boxes.new_tensor([0, 0, 1, 1])
            return paste_in_integer_boxes(probabilities, boxes, detections.image_size) > 0.5
        return paste_masks_in_image(
            probabilities, detections.pred_boxes, detections.image_size, threshold=0.5
        )

    def classify(self, features: Features, boxes: torch.Tensor) -> torch.Tensor:
        """Class probabilities (R, C), without the background, of boxes (R, 4) in one image."""
        maps = [features[f] for f in self.box_in_features]
        pooled = self.box_head(self.box_pooler(maps, [Boxes(boxes)]))
        scores, _ = self.box_predictor(pooled)
        return scores.float().softmax(dim=1)[:, :-1]


def propagated_pairs(
    guidance: Instances, query: Instances, limit: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose objects that are in both frames with a mask in the query, ``limit`` at random.

    Returns:
        Their rows in the guidance frame and in the query frame.
    """
    device = query.gt_ids.device
    same = guidance.gt_ids[:, None] == query.gt_ids[None]
    if len(query):
        same = same & query.gt_masks.tensor.flatten(1).any(1).to(device)[None]
    rows, columns = same.nonzero(as_tuple=True)
    if len(rows) > limit:
        keep = torch.randperm(len(rows))[:limit].to(device)
        rows, columns = rows[keep], columns[keep]
    return rows, columns
