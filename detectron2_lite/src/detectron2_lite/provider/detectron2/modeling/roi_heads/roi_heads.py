"""RoI heads: sampling of proposals, then a box branch and a mask branch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec, nonzero_tuple
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from fvcore.common.registry import Registry
from torch import Tensor, nn

from ..matcher import Matcher
from ..poolers import ROIPooler
from ..proposal_generator.proposal_utils import add_ground_truth_to_proposals
from ..sampling import subsample_labels
from .box_head import build_box_head
from .fast_rcnn import FastRCNNOutputLayers
from .mask_head import build_mask_head

__all__ = [
    "ROIHeads",
    "ROI_HEADS_REGISTRY",
    "StandardROIHeads",
    "build_roi_heads",
    "select_foreground_proposals",
]

ROI_HEADS_REGISTRY = Registry("ROI_HEADS")
ROI_HEADS_REGISTRY.__doc__ = "Callables ``(cfg, dict[str, ShapeSpec]) -> ROIHeads`` by name."


def build_roi_heads(cfg, input_shape: dict[str, ShapeSpec]) -> ROIHeads:
    """Build ``cfg.MODEL.ROI_HEADS.NAME``."""
    return ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)(cfg, input_shape)


def select_foreground_proposals(
    proposals: list[Instances], bg_label: int
) -> tuple[list[Instances], list[Tensor]]:
    """Proposals whose ``gt_classes`` is neither background nor -1, and their masks (R_i,) bool."""
    masks = [(p.gt_classes != -1) & (p.gt_classes != bg_label) for p in proposals]
    return [p[nonzero_tuple(mask)[0]] for p, mask in zip(proposals, masks)], masks


class ROIHeads(nn.Module):
    """Matching and sampling of proposals, common to all heads."""

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        batch_size_per_image: int,
        positive_fraction: float,
        proposal_matcher: Matcher,
        proposal_append_gt: bool = True,
    ):
        """``num_classes`` counts foreground classes only."""
        super().__init__()
        self.num_classes = num_classes
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.proposal_matcher = proposal_matcher
        self.proposal_append_gt = proposal_append_gt

    @classmethod
    def from_config(cls, cfg) -> dict:
        options = cfg.MODEL.ROI_HEADS
        return {
            "num_classes": options.NUM_CLASSES,
            "batch_size_per_image": options.BATCH_SIZE_PER_IMAGE,
            "positive_fraction": options.POSITIVE_FRACTION,
            "proposal_append_gt": options.PROPOSAL_APPEND_GT,
            "proposal_matcher": Matcher(
                options.IOU_THRESHOLDS, options.IOU_LABELS, allow_low_quality_matches=False
            ),
        }

    def _sample_proposals(
        self, matched_idxs: Tensor, matched_labels: Tensor, gt_classes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sampled proposals, foreground first, and their classes (background = num_classes)."""
        if gt_classes.numel() > 0:
            classes = gt_classes[matched_idxs]
            classes[matched_labels == 0] = self.num_classes
            classes[matched_labels == -1] = -1
        else:
            classes = torch.full_like(matched_idxs, self.num_classes)
        foreground, background = subsample_labels(
            classes, self.batch_size_per_image, self.positive_fraction, self.num_classes
        )
        sampled = torch.cat([foreground, background])
        return sampled, classes[sampled]

    @torch.no_grad()
    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """Match proposals (plus the ground truth) and draw a sample of each image.

        The samples carry ``proposal_boxes, objectness_logits, gt_classes`` and, where the image
        has objects, every ``gt_*`` field of the matched one.
        """
        if self.proposal_append_gt:
            proposals = add_ground_truth_to_proposals(targets, proposals)
        sampled_proposals, num_foreground, num_background = [], 0, 0
        for proposal, target in zip(proposals, targets):
            quality = pairwise_iou(target.gt_boxes, proposal.proposal_boxes)
            index, labels = self.proposal_matcher(quality)
            sampled, classes = self._sample_proposals(index, labels, target.gt_classes)
            proposal = proposal[sampled]
            proposal.gt_classes = classes
            if len(target) > 0:
                matched = index[sampled]
                for name, value in target.get_fields().items():
                    if name.startswith("gt_") and not proposal.has(name):
                        proposal.set(name, value[matched])
            background = (classes == self.num_classes).sum().item()
            num_background += background
            num_foreground += classes.numel() - background
            sampled_proposals.append(proposal)
        storage = get_event_storage()
        storage.put_scalar("roi_head/num_fg_samples", num_foreground / max(1, len(targets)))
        storage.put_scalar("roi_head/num_bg_samples", num_background / max(1, len(targets)))
        return sampled_proposals

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Training: (sampled proposals, losses); testing: (detections, {})."""
        raise NotImplementedError


@ROI_HEADS_REGISTRY.register()
class StandardROIHeads(ROIHeads):
    """A box branch and an optional mask branch that share no features (Mask R-CNN)."""

    @configurable
    def __init__(
        self,
        *,
        box_in_features: Sequence[str],
        box_pooler: ROIPooler,
        box_head: nn.Module,
        box_predictor: nn.Module,
        mask_in_features: Sequence[str] | None = None,
        mask_pooler: ROIPooler | None = None,
        mask_head: nn.Module | None = None,
        train_on_pred_boxes: bool = False,
        **kwargs,
    ):
        """``train_on_pred_boxes``: the mask branch trains on predicted boxes, not proposals.

        ``kwargs`` go to ``ROIHeads``. Without ``mask_in_features`` there is no mask branch.
        """
        super().__init__(**kwargs)
        self.in_features = self.box_in_features = box_in_features
        self.box_pooler = box_pooler
        self.box_head = box_head
        self.box_predictor = box_predictor
        self.mask_on = mask_in_features is not None
        if self.mask_on:
            self.mask_in_features = mask_in_features
            self.mask_pooler = mask_pooler
            self.mask_head = mask_head
        self.train_on_pred_boxes = train_on_pred_boxes

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict:
        if cfg.MODEL.KEYPOINT_ON:
            raise NotImplementedError("MODEL.KEYPOINT_ON: not in this Detectron2")
        options = super().from_config(cfg)
        options["train_on_pred_boxes"] = cfg.MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES
        options.update(cls._init_box_head(cfg, input_shape))
        options.update(cls._init_mask_head(cfg, input_shape))
        return options

    @classmethod
    def _init_box_head(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict:
        pooler, shape = _build_pooler(cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_HEADS, input_shape)
        head = build_box_head(cfg, shape)
        return {
            "box_in_features": cfg.MODEL.ROI_HEADS.IN_FEATURES,
            "box_pooler": pooler,
            "box_head": head,
            "box_predictor": FastRCNNOutputLayers(cfg, head.output_shape),
        }

    @classmethod
    def _init_mask_head(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict:
        if not cfg.MODEL.MASK_ON:
            return {}
        options = cfg.MODEL.ROI_MASK_HEAD
        if options.POOLER_TYPE:
            pooler, shape = _build_pooler(options, cfg.MODEL.ROI_HEADS, input_shape)
        else:
            # A head without a pooler takes the maps themselves.
            pooler = None
            shape = {name: input_shape[name] for name in cfg.MODEL.ROI_HEADS.IN_FEATURES}
        return {
            "mask_in_features": cfg.MODEL.ROI_HEADS.IN_FEATURES,
            "mask_pooler": pooler,
            "mask_head": build_mask_head(cfg, shape),
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """See ``ROIHeads.forward``; detections: pred_boxes, scores, pred_classes, pred_masks."""
        del images
        if self.training:
            assert targets, "training the RoI heads needs the field 'instances'"
            proposals = self.label_and_sample_proposals(proposals, targets)
            losses = self._forward_box(features, proposals)
            # With train_on_pred_boxes the box branch has replaced proposal_boxes.
            losses.update(self._forward_mask(features, proposals))
            return proposals, losses
        detections = self._forward_box(features, proposals)
        return self.forward_with_given_boxes(features, detections), {}

    def forward_with_given_boxes(
        self, features: dict[str, Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """Add ``pred_masks`` to instances with ``pred_boxes, pred_classes``; testing only."""
        assert not self.training, "forward_with_given_boxes is for testing"
        assert all(x.has("pred_boxes") and x.has("pred_classes") for x in instances)
        return self._forward_mask(features, instances)

    def _forward_box(self, features: dict[str, Tensor], proposals: list[Instances]):
        """Training: the box losses; testing: the detections of each image."""
        maps = [features[name] for name in self.box_in_features]
        pooled = self.box_head(self.box_pooler(maps, [x.proposal_boxes for x in proposals]))
        predictions = self.box_predictor(pooled)
        if not self.training:
            return self.box_predictor.inference(predictions, proposals)[0]
        losses = self.box_predictor.losses(predictions, proposals)
        if self.train_on_pred_boxes:
            with torch.no_grad():
                predicted = self.box_predictor.predict_boxes_for_gt_classes(predictions, proposals)
                for proposal, boxes in zip(proposals, predicted):
                    proposal.proposal_boxes = Boxes(boxes)
        return losses

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]):
        """Training: the mask loss; testing: the instances with ``pred_masks``."""
        if not self.mask_on:
            return {} if self.training else instances
        if self.training:
            instances, _ = select_foreground_proposals(instances, self.num_classes)
        if self.mask_pooler is None:
            inputs = {name: features[name] for name in self.mask_in_features}
        else:
            name = "proposal_boxes" if self.training else "pred_boxes"
            maps = [features[f] for f in self.mask_in_features]
            inputs = self.mask_pooler(maps, [x.get(name) for x in instances])
        return self.mask_head(inputs, instances)


def _build_pooler(
    options, head_options, input_shape: dict[str, ShapeSpec]
) -> tuple[ROIPooler, ShapeSpec]:
    """The pooler of a branch (its POOLER_* options) over ROI_HEADS.IN_FEATURES, and its output."""
    shapes = [input_shape[name] for name in head_options.IN_FEATURES]
    channels = {shape.channels for shape in shapes}
    assert len(channels) == 1, f"MODEL.ROI_HEADS.IN_FEATURES must have one width, not {channels}"
    side = options.POOLER_RESOLUTION
    pooler = ROIPooler(
        output_size=side,
        scales=[1.0 / shape.stride for shape in shapes],
        sampling_ratio=options.POOLER_SAMPLING_RATIO,
        pooler_type=options.POOLER_TYPE,
    )
    return pooler, ShapeSpec(channels=channels.pop(), height=side, width=side)
