"""Cascade R-CNN (Cai and Vasconcelos 2018): box stages of rising IoU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ..box_regression import Box2BoxTransform
from ..matcher import Matcher
from ..poolers import ROIPooler
from .box_head import build_box_head
from .fast_rcnn import FastRCNNOutputLayers, fast_rcnn_inference
from .roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads, _build_pooler

__all__ = ["CascadeROIHeads"]


class _ScaleGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied by ``scale``."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.scale, None


@ROI_HEADS_REGISTRY.register()
class CascadeROIHeads(StandardROIHeads):
    """Each stage refines the boxes of the one before; the mask branch uses the first sample."""

    @configurable
    def __init__(
        self,
        *,
        box_in_features: Sequence[str],
        box_pooler: ROIPooler,
        box_heads: Sequence[nn.Module],
        box_predictors: Sequence[nn.Module],
        proposal_matchers: Sequence[Matcher],
        **kwargs,
    ):
        """One head, predictor and matcher per stage; ``kwargs`` go to ``StandardROIHeads``.

        The first matcher must be the one that samples the proposals.
        """
        assert "proposal_matcher" not in kwargs, "give proposal_matchers, one per stage"
        assert len(box_predictors) == len(proposal_matchers) == len(box_heads), "stages differ"
        super().__init__(
            box_in_features=box_in_features,
            box_pooler=box_pooler,
            box_head=nn.ModuleList(box_heads),
            box_predictor=nn.ModuleList(box_predictors),
            proposal_matcher=proposal_matchers[0],
            **kwargs,
        )
        self.num_cascade_stages = len(box_heads)
        self.proposal_matchers = list(proposal_matchers)

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict:
        options = super().from_config(cfg, input_shape)
        options.pop("proposal_matcher")
        return options

    @classmethod
    def _init_box_head(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict:
        options = cfg.MODEL.ROI_BOX_CASCADE_HEAD
        ious, weights = options.IOUS, options.BBOX_REG_WEIGHTS
        assert len(ious) == len(weights), (
            "MODEL.ROI_BOX_CASCADE_HEAD: IOUS and BBOX_REG_WEIGHTS differ in length"
        )
        assert cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG, (
            "CascadeROIHeads needs MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG True"
        )
        assert ious[0] == cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS[0], (
            "the first of MODEL.ROI_BOX_CASCADE_HEAD.IOUS must equal ROI_HEADS.IOU_THRESHOLDS"
        )
        pooler, shape = _build_pooler(cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_HEADS, input_shape)
        heads = [build_box_head(cfg, shape) for _ in ious]
        return {
            "box_in_features": cfg.MODEL.ROI_HEADS.IN_FEATURES,
            "box_pooler": pooler,
            "box_heads": heads,
            "box_predictors": [
                FastRCNNOutputLayers(
                    cfg, head.output_shape, box2box_transform=Box2BoxTransform(weights=weight)
                )
                for head, weight in zip(heads, weights)
            ],
            "proposal_matchers": [
                Matcher([iou], [0, 1], allow_low_quality_matches=False) for iou in ious
            ],
        }

    def forward(
        self, images, features: dict[str, Tensor], proposals: list[Instances], targets=None
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """See ``StandardROIHeads.forward``; box losses end in ``_stage{k}``."""
        del images
        if self.training:
            assert targets, "training the RoI heads needs the field 'instances'"
            proposals = self.label_and_sample_proposals(proposals, targets)
            losses = self._forward_box(features, proposals, targets)
            losses.update(self._forward_mask(features, proposals))
            return proposals, losses
        detections = self._forward_box(features, proposals)
        return self.forward_with_given_boxes(features, detections), {}

    def _forward_box(self, features, proposals: list[Instances], targets=None):
        """Training: the losses of all stages; testing: the detections of each image."""
        maps = [features[name] for name in self.box_in_features]
        image_sizes = [p.image_size for p in proposals]
        stages, boxes = [], None
        for k in range(self.num_cascade_stages):
            if k > 0:
                proposals = self._create_proposals_from_boxes(boxes, image_sizes)
                if self.training:
                    proposals = self._match_and_label_boxes(proposals, k, targets)
            predictions = self._run_stage(maps, proposals, k)
            boxes = self.box_predictor[k].predict_boxes(predictions, proposals)
            stages.append((predictions, proposals))
        if self.training:
            return self._stage_losses(stages)
        probs = [
            predictor.predict_probs(*stage) for predictor, stage in zip(self.box_predictor, stages)
        ]
        # Scores: the mean of the stages for the boxes of the last (Section 4.3).
        scores = [sum(of_image) / self.num_cascade_stages for of_image in zip(*probs)]
        last = self.box_predictor[-1]
        return fast_rcnn_inference(
            boxes,
            scores,
            image_sizes,
            last.test_score_thresh,
            last.test_nms_thresh,
            last.test_topk_per_image,
        )[0]

    def _stage_losses(self, stages) -> dict[str, Tensor]:
        losses = {}
        storage = get_event_storage()
        for k, (predictions, proposals) in enumerate(stages):
            with storage.name_scope(f"stage{k}"):
                stage = self.box_predictor[k].losses(predictions, proposals)
            losses.update({f"{name}_stage{k}": loss for name, loss in stage.items()})
        return losses

    def _run_stage(self, maps: list[Tensor], proposals: list[Instances], stage: int):
        """Pool, head and predictor of one stage; all stages together give the usual gradient."""
        pooled = self.box_pooler(maps, [p.proposal_boxes for p in proposals])
        if self.training:
            pooled = _ScaleGradient.apply(pooled, 1.0 / self.num_cascade_stages)
        return self.box_predictor[stage](self.box_head[stage](pooled))

    @torch.no_grad()
    def _match_and_label_boxes(
        self, proposals: list[Instances], stage: int, targets: list[Instances]
    ) -> list[Instances]:
        """Set ``gt_classes`` and ``gt_boxes`` by the matcher of the stage, without sampling."""
        num_foreground = num_background = 0
        for proposal, target in zip(proposals, targets):
            quality = pairwise_iou(target.gt_boxes, proposal.proposal_boxes)
            index, labels = self.proposal_matchers[stage](quality)
            if len(target) > 0:
                classes = target.gt_classes[index]
                classes[labels == 0] = self.num_classes
                gt_boxes = target.gt_boxes[index]
            else:
                classes = torch.full_like(index, self.num_classes)
                gt_boxes = Boxes(torch.zeros_like(proposal.proposal_boxes.tensor))
            proposal.gt_classes = classes
            proposal.gt_boxes = gt_boxes
            foreground = (labels == 1).sum().item()
            num_foreground += foreground
            num_background += labels.numel() - foreground
        storage = get_event_storage()
        prefix = f"stage{stage}/roi_head"
        storage.put_scalar(f"{prefix}/num_fg_samples", num_foreground / max(1, len(proposals)))
        storage.put_scalar(f"{prefix}/num_bg_samples", num_background / max(1, len(proposals)))
        return proposals

    def _create_proposals_from_boxes(
        self, boxes: Sequence[Tensor], image_sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """Clip the boxes of the stage before; in training drop empty ones. No gradient."""
        proposals = []
        for box, image_size in zip(boxes, image_sizes):
            box = Boxes(box.detach())
            box.clip(image_size)
            if self.training:
                box = box[box.nonempty()]
            proposals.append(Instances(image_size, proposal_boxes=box))
        return proposals
