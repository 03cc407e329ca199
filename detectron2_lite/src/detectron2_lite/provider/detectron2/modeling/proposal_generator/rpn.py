"""Region Proposal Network (Faster R-CNN, Section 3.1).

N images, A anchors per grid point, R anchors of an image over all levels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec, cat
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from detectron2.utils.memory import retry_if_cuda_oom
from fvcore.common.registry import Registry
from torch import Tensor, nn
from torch.nn import functional as F

from ..anchor_generator import build_anchor_generator
from ..box_regression import Box2BoxTransform, _dense_box_regression_loss
from ..matcher import Matcher
from ..sampling import subsample_labels
from .build import PROPOSAL_GENERATOR_REGISTRY
from .proposal_utils import find_top_rpn_proposals

__all__ = ["RPN", "RPN_HEAD_REGISTRY", "StandardRPNHead", "build_rpn_head"]

RPN_HEAD_REGISTRY = Registry("RPN_HEAD")
RPN_HEAD_REGISTRY.__doc__ = "Callables ``(cfg, list[ShapeSpec]) -> nn.Module`` by name."


def build_rpn_head(cfg, input_shape: list[ShapeSpec]) -> nn.Module:
    """Build ``cfg.MODEL.RPN.HEAD_NAME``."""
    return RPN_HEAD_REGISTRY.get(cfg.MODEL.RPN.HEAD_NAME)(cfg, input_shape)


@RPN_HEAD_REGISTRY.register()
class StandardRPNHead(nn.Module):
    """3x3 convolutions, then 1x1 convolutions to objectness logits and anchor deltas."""

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        num_anchors: int,
        box_dim: int = 4,
        conv_dims: Sequence[int] = (-1,),
    ):
        """``conv_dims``: widths of the 3x3 convolutions, -1 keeps the width.

        One is called ``conv``, several ``conv.conv0``, ``conv.conv1``, ...
        """
        super().__init__()
        widths = [in_channels]
        for dim in conv_dims:
            widths.append(widths[-1] if dim == -1 else dim)
            assert widths[-1] > 0, f"MODEL.RPN.CONV_DIMS must be -1 or positive: {conv_dims}"
        convs = [
            Conv2d(a, b, kernel_size=3, padding=1, activation=nn.ReLU())
            for a, b in itertools.pairwise(widths)
        ]
        if len(convs) == 1:
            self.conv = convs[0]
        else:
            self.conv = nn.Sequential()
            for k, conv in enumerate(convs):
                self.conv.add_module(f"conv{k}", conv)
        self.objectness_logits = nn.Conv2d(widths[-1], num_anchors, kernel_size=1)
        self.anchor_deltas = nn.Conv2d(widths[-1], num_anchors * box_dim, kernel_size=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.constant_(layer.bias, 0)

    @classmethod
    def from_config(cls, cfg, input_shape: list[ShapeSpec]) -> dict:
        channels = {shape.channels for shape in input_shape}
        assert len(channels) == 1, f"the RPN's feature maps must have one width, not {channels}"
        anchors = build_anchor_generator(cfg, input_shape)
        counts = set(anchors.num_anchors)
        assert len(counts) == 1, f"the levels must have the same number of anchors, not {counts}"
        return {
            "in_channels": channels.pop(),
            "num_anchors": counts.pop(),
            "box_dim": anchors.box_dim,
            "conv_dims": cfg.MODEL.RPN.CONV_DIMS,
        }

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per level logits (N, A, H, W) and deltas (N, A * box_dim, H, W)."""
        hidden = [self.conv(x) for x in features]
        return [self.objectness_logits(x) for x in hidden], [self.anchor_deltas(x) for x in hidden]


@PROPOSAL_GENERATOR_REGISTRY.register()
class RPN(nn.Module):
    """Anchors, head, matching, losses and proposals."""

    @configurable
    def __init__(
        self,
        *,
        in_features: Sequence[str],
        head: nn.Module,
        anchor_generator: nn.Module,
        anchor_matcher: Matcher,
        box2box_transform: Box2BoxTransform,
        batch_size_per_image: int,
        positive_fraction: float,
        pre_nms_topk: tuple[int, int],
        post_nms_topk: tuple[int, int],
        nms_thresh: float = 0.7,
        min_box_size: float = 0.0,
        anchor_boundary_thresh: float = -1.0,
        loss_weight: float | dict[str, float] = 1.0,
        box_reg_loss_type: str = "smooth_l1",
        smooth_l1_beta: float = 0.0,
    ):
        """``pre_nms_topk``, ``post_nms_topk``: (training, testing).

        ``anchor_boundary_thresh``: anchors further outside the image are not trained; negative:
        all are. ``loss_weight``: one factor, or one per loss name.
        """
        super().__init__()
        self.in_features = in_features
        self.rpn_head = head
        self.anchor_generator = anchor_generator
        self.anchor_matcher = anchor_matcher
        self.box2box_transform = box2box_transform
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.pre_nms_topk = {True: pre_nms_topk[0], False: pre_nms_topk[1]}
        self.post_nms_topk = {True: post_nms_topk[0], False: post_nms_topk[1]}
        self.nms_thresh = nms_thresh
        self.min_box_size = float(min_box_size)
        self.anchor_boundary_thresh = anchor_boundary_thresh
        if isinstance(loss_weight, (int, float)):
            loss_weight = dict.fromkeys(("loss_rpn_cls", "loss_rpn_loc"), loss_weight)
        self.loss_weight = loss_weight
        self.box_reg_loss_type = box_reg_loss_type
        self.smooth_l1_beta = smooth_l1_beta

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict:
        options = cfg.MODEL.RPN
        shapes = [input_shape[name] for name in options.IN_FEATURES]
        return {
            "in_features": options.IN_FEATURES,
            "head": build_rpn_head(cfg, shapes),
            "anchor_generator": build_anchor_generator(cfg, shapes),
            "anchor_matcher": Matcher(
                options.IOU_THRESHOLDS, options.IOU_LABELS, allow_low_quality_matches=True
            ),
            "box2box_transform": Box2BoxTransform(weights=options.BBOX_REG_WEIGHTS),
            "batch_size_per_image": options.BATCH_SIZE_PER_IMAGE,
            "positive_fraction": options.POSITIVE_FRACTION,
            "pre_nms_topk": (options.PRE_NMS_TOPK_TRAIN, options.PRE_NMS_TOPK_TEST),
            "post_nms_topk": (options.POST_NMS_TOPK_TRAIN, options.POST_NMS_TOPK_TEST),
            "nms_thresh": options.NMS_THRESH,
            "min_box_size": cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
            "anchor_boundary_thresh": options.BOUNDARY_THRESH,
            "loss_weight": {
                "loss_rpn_cls": options.LOSS_WEIGHT,
                "loss_rpn_loc": options.BBOX_REG_LOSS_WEIGHT * options.LOSS_WEIGHT,
            },
            "box_reg_loss_type": options.BBOX_REG_LOSS_TYPE,
            "smooth_l1_beta": options.SMOOTH_L1_BETA,
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        gt_instances: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Proposals of every image, and the losses (empty outside training).

        Training needs ``gt_instances`` with ``gt_boxes`` and an EventStorage context.
        """
        features = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(features)
        logits, deltas = self.rpn_head(features)
        logits = [_flatten(level, 1).squeeze(2) for level in logits]
        deltas = [_flatten(level, self.anchor_generator.box_dim) for level in deltas]
        losses = {}
        if self.training:
            assert gt_instances is not None, "training the RPN needs the field 'instances'"
            labels, gt_boxes = self.label_and_sample_anchors(anchors, gt_instances)
            losses = self.losses(anchors, logits, labels, deltas, gt_boxes)
        proposals = self.predict_proposals(anchors, logits, deltas, images.image_sizes)
        return proposals, losses

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Per image labels (R,) int8 (1, 0, or -1 for not sampled) and matched boxes (R, 4)."""
        anchors = Boxes.cat(anchors)
        all_labels, all_boxes = [], []
        for gt in gt_instances:
            gt_boxes = gt.gt_boxes
            quality = retry_if_cuda_oom(pairwise_iou)(gt_boxes, anchors)
            index, labels = retry_if_cuda_oom(self.anchor_matcher)(quality)
            labels = labels.to(device=gt_boxes.device)
            if self.anchor_boundary_thresh >= 0:
                inside = anchors.inside_box(gt.image_size, self.anchor_boundary_thresh)
                labels[~inside] = -1
            all_labels.append(self._subsample_labels(labels))
            if len(gt_boxes) == 0:
                all_boxes.append(torch.zeros_like(anchors.tensor))
            else:
                all_boxes.append(gt_boxes[index].tensor)
        return all_labels, all_boxes

    def _subsample_labels(self, labels: Tensor) -> Tensor:
        """Set all labels to -1 except a random sample; in place."""
        positive, negative = subsample_labels(
            labels, self.batch_size_per_image, self.positive_fraction, 0
        )
        labels.fill_(-1)
        labels[positive] = 1
        labels[negative] = 0
        return labels

    def losses(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> dict[str, Tensor]:
        """``loss_rpn_cls`` and ``loss_rpn_loc``; predictions per level (N, R_i[, 4])."""
        num_images = len(gt_labels)
        labels = torch.stack(gt_labels)
        positive, valid = labels == 1, labels >= 0
        storage = get_event_storage()
        storage.put_scalar("rpn/num_pos_anchors", positive.sum().item() / num_images)
        storage.put_scalar("rpn/num_neg_anchors", (labels == 0).sum().item() / num_images)
        loc = _dense_box_regression_loss(
            anchors,
            self.box2box_transform,
            pred_anchor_deltas,
            gt_boxes,
            foreground=positive,
            loss_type=self.box_reg_loss_type,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        cls = F.binary_cross_entropy_with_logits(
            cat(pred_objectness_logits, dim=1)[valid],
            labels[valid].to(torch.float32),
            reduction="sum",
        )
        normaliser = self.batch_size_per_image * num_images
        losses = {"loss_rpn_cls": cls / normaliser, "loss_rpn_loc": loc / normaliser}
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    @torch.no_grad()
    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """Decode the deltas and keep the best boxes; no gradient flows into them."""
        boxes = [
            self.box2box_transform.apply_deltas(
                deltas.reshape(-1, 4),
                level.tensor.expand(deltas.shape[0], -1, -1).reshape(-1, 4),
            ).view(deltas.shape[0], -1, 4)
            for level, deltas in zip(anchors, pred_anchor_deltas)
        ]
        return find_top_rpn_proposals(
            boxes,
            pred_objectness_logits,
            image_sizes,
            self.nms_thresh,
            self.pre_nms_topk[self.training],
            self.post_nms_topk[self.training],
            self.min_box_size,
            self.training,
        )


def _flatten(x: Tensor, dim: int) -> Tensor:
    """(N, A * dim, H, W) -> (N, H * W * A, dim): location-major, anchor-minor."""
    batch, channels, height, width = x.shape
    x = x.view(batch, channels // dim, dim, height, width)
    return x.permute(0, 3, 4, 1, 2).reshape(batch, -1, dim)
