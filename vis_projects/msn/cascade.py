"""The cascade of the official Swin detectors: class-specific boxes and a mask head per stage.

It differs from Detectron2's ``CascadeROIHeads`` in four points: every class has a box of its own,
each stage samples anew and trains a mask head, stages are weighted by their losses instead of by
scaled gradients, and at test the masks of all heads are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import StandardROIHeads, select_foreground_proposals
from detectron2.modeling.roi_heads.box_head import build_box_head
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers, fast_rcnn_inference
from detectron2.modeling.roi_heads.mask_head import (
    build_mask_head,
    mask_rcnn_inference,
    mask_rcnn_loss,
)
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import nn


def class_box(boxes: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """The box (N, 4) of one class each out of boxes (N, 4 K) of all K classes, or of (N, 4)."""
    boxes = boxes.unflatten(1, (-1, 4))
    rows = torch.arange(len(boxes), device=boxes.device)
    return boxes[rows, classes if boxes.shape[1] > 1 else torch.zeros_like(classes)]


@ROI_HEADS_REGISTRY.register()
class OfficialCascadeROIHeads(StandardROIHeads):
    """Cascade Mask R-CNN as the official Swin detectors have it (specified for MSN, stage 1).

    Args:
        box_head, box_predictor, mask_head: one per stage, in module lists.
        stage_matchers: of the rising IoU thresholds.
        stage_weights: factors of the stages' losses.
        append_gt: ground truth joins the proposals of every stage.
    """

    @configurable
    def __init__(
        self,
        *,
        stage_matchers: Sequence[Matcher],
        stage_weights: Sequence[float],
        append_gt: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            proposal_matcher=stage_matchers[0],
            proposal_append_gt=False,  # appended here, marked, so that it is not refined
            **kwargs,
        )
        self.stage_matchers = list(stage_matchers)
        self.stage_weights = list(stage_weights)
        self.append_gt = append_gt

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        options = super().from_config(cfg, input_shape)
        options.pop("proposal_matcher")
        options["append_gt"] = options.pop("proposal_append_gt")
        return options

    @classmethod
    def _init_box_head(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        options = super()._init_box_head(cfg, input_shape)
        cascade = cfg.MODEL.ROI_BOX_CASCADE_HEAD
        side = cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION
        channels = input_shape[cfg.MODEL.ROI_HEADS.IN_FEATURES[0]].channels
        shape = ShapeSpec(channels=channels, height=side, width=side)
        heads = [build_box_head(cfg, shape) for _ in cascade.IOUS]
        options["box_head"] = nn.ModuleList(heads)
        options["box_predictor"] = nn.ModuleList(
            FastRCNNOutputLayers(
                cfg, head.output_shape, box2box_transform=Box2BoxTransform(weights=weights)
            )
            for head, weights in zip(heads, cascade.BBOX_REG_WEIGHTS, strict=True)
        )
        options["stage_matchers"] = [Matcher([iou], [0, 1]) for iou in cascade.IOUS]
        options["stage_weights"] = cfg.MODEL.MSN.STAGE_WEIGHTS
        return options

    @classmethod
    def _init_mask_head(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        options = super()._init_mask_head(cfg, input_shape)
        if options:
            side = cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION
            channels = input_shape[cfg.MODEL.ROI_HEADS.IN_FEATURES[0]].channels
            shape = ShapeSpec(channels=channels, height=side, width=side)
            options["mask_head"] = nn.ModuleList(
                build_mask_head(cfg, shape) for _ in cfg.MODEL.ROI_BOX_CASCADE_HEAD.IOUS
            )
        return options

    def forward(self, images, features, proposals, targets=None):
        """See ``StandardROIHeads.forward``; losses end in ``_stage{k}``."""
        del images
        if self.training:
            assert targets, "training the RoI heads needs the field 'instances'"
            return proposals, self._train(features, proposals, targets)
        detections = self._detect(features, proposals)
        return self.forward_with_given_boxes(features, detections), {}

    # Training ------------------------------------------------------------------------------------

    def _train(
        self,
        features: dict[str, torch.Tensor],
        proposals: list[Instances],
        targets: list[Instances],
    ) -> dict[str, torch.Tensor]:
        losses: dict[str, torch.Tensor] = {}
        boxes = [p.proposal_boxes for p in proposals]
        sizes = [p.image_size for p in proposals]
        storage = get_event_storage()
        for k, weight in enumerate(self.stage_weights):
            with storage.name_scope(f"stage{k}"):
                sampled = self._sample(boxes, sizes, targets, k)
                predictions = self._run_stage(features, sampled, k)
                stage = self.box_predictor[k].losses(predictions, sampled)
                stage.update(self._mask_losses(features, sampled, k))
            losses.update({f"{n}_stage{k}": value * weight for n, value in stage.items()})
            if k + 1 < len(self.stage_weights):
                boxes = self._refined(predictions, sampled, k)
        return losses

    @torch.no_grad()
    def _sample(
        self,
        boxes: list[Boxes],
        sizes: list[tuple[int, int]],
        targets: list[Instances],
        stage: int,
    ) -> list[Instances]:
        """Match and sample the boxes of a stage, ground truth added."""
        proposals = []
        for box, size, target in zip(boxes, sizes, targets):
            given = torch.zeros(len(box), dtype=torch.bool, device=box.device)
            if self.append_gt:
                box = Boxes.cat([box, target.gt_boxes])
                given = torch.cat([given, given.new_ones(len(target))])
            proposals.append(Instances(size, proposal_boxes=box, is_given=given))
        self.proposal_matcher = self.stage_matchers[stage]
        return self.label_and_sample_proposals(proposals, targets)

    def _mask_losses(
        self, features: dict[str, torch.Tensor], sampled: list[Instances], stage: int
    ) -> dict[str, torch.Tensor]:
        if not self.mask_on:
            return {}
        positive, _ = select_foreground_proposals(sampled, self.num_classes)
        maps = [features[name] for name in self.mask_in_features]
        pooled = self.mask_pooler(maps, [p.proposal_boxes for p in positive])
        return {"loss_mask": mask_rcnn_loss(self.mask_head[stage].layers(pooled), positive)}

    @torch.no_grad()
    def _refined(
        self, predictions: tuple[torch.Tensor, torch.Tensor], sampled: list[Instances], stage: int
    ) -> list[Boxes]:
        """Boxes of the next stage: of the true class, for background of the likeliest class."""
        predictor = self.box_predictor[stage]
        per_image = predictor.predict_boxes(predictions, sampled)
        scores = predictor.predict_probs(predictions, sampled)
        refined = []
        for boxes, probs, proposal in zip(per_image, scores, sampled):
            likeliest = probs[:, :-1].argmax(1)
            foreground = proposal.gt_classes < self.num_classes
            classes = torch.where(foreground, proposal.gt_classes, likeliest)
            box = Boxes(class_box(boxes, classes))
            box.clip(proposal.image_size)
            refined.append(box[box.nonempty() & ~proposal.is_given])
        return refined

    def _run_stage(
        self, features: dict[str, torch.Tensor], proposals: list[Instances], stage: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        maps = [features[name] for name in self.box_in_features]
        pooled = self.box_pooler(maps, [p.proposal_boxes for p in proposals])
        return self.box_predictor[stage](self.box_head[stage](pooled))

    # Testing -------------------------------------------------------------------------------------

    def _detect(
        self, features: dict[str, torch.Tensor], proposals: list[Instances]
    ) -> list[Instances]:
        """Detections of each image: mean scores of the stages, boxes of the last."""
        sizes = [p.image_size for p in proposals]
        total: list[torch.Tensor] = []
        boxes: Sequence[torch.Tensor] = ()
        for k, predictor in enumerate(self.box_predictor):
            predictions = self._run_stage(features, proposals, k)
            boxes = predictor.predict_boxes(predictions, proposals)
            probs = predictor.predict_probs(predictions, proposals)
            total = [t + p for t, p in zip(total, probs)] if total else list(probs)
            refined = []
            for box, prob, size in zip(boxes, probs, sizes):
                picked = Boxes(class_box(box, prob[:, :-1].argmax(1)))
                picked.clip(size)
                refined.append(Instances(size, proposal_boxes=picked))
            proposals = refined
        scores = [t / len(self.box_predictor) for t in total]
        last = self.box_predictor[-1]
        return fast_rcnn_inference(
            boxes,
            scores,
            sizes,
            last.test_score_thresh,
            last.test_nms_thresh,
            last.test_topk_per_image,
        )[0]

    def forward_with_given_boxes(
        self, features: dict[str, torch.Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """Add ``pred_masks``, the mean over the mask heads; testing only."""
        if not self.mask_on:
            return instances
        maps = [features[name] for name in self.mask_in_features]
        pooled = self.mask_pooler(maps, [x.pred_boxes for x in instances])
        total: list[torch.Tensor] = []
        for head in self.mask_head:
            mask_rcnn_inference(head.layers(pooled), instances)
            masks = [x.pred_masks for x in instances]
            total = [t + m for t, m in zip(total, masks)] if total else masks
        for x, mask in zip(instances, total):
            x.pred_masks = mask / len(self.mask_head)
        return instances
