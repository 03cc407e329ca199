"""Masks of boxes (Mask R-CNN, Section 3).

R boxes, S side of the predicted masks, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import configurable
from detectron2.layers import Conv2d, ConvTranspose2d, ShapeSpec, cat, get_norm
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from fvcore.common.registry import Registry
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "BaseMaskRCNNHead",
    "MaskRCNNConvUpsampleHead",
    "ROI_MASK_HEAD_REGISTRY",
    "build_mask_head",
    "mask_rcnn_inference",
    "mask_rcnn_loss",
]

ROI_MASK_HEAD_REGISTRY = Registry("ROI_MASK_HEAD")
ROI_MASK_HEAD_REGISTRY.__doc__ = "Callables ``(cfg, ShapeSpec) -> nn.Module`` by name."


def mask_rcnn_loss(
    pred_mask_logits: Tensor, instances: list[Instances], vis_period: int = 0
) -> Tensor:
    """Mean binary cross entropy of logits (R, K or 1, S, S) on the class of the ground truth.

    ``instances``: foreground proposals with ``proposal_boxes, gt_classes, gt_masks``. Every
    ``vis_period`` iterations masks go to the EventStorage, predicted beside ground truth.
    """
    side = pred_mask_logits.size(2)
    assert side == pred_mask_logits.size(3), "mask predictions must be square"
    instances = [x for x in instances if len(x) > 0]
    if not instances:
        return pred_mask_logits.sum() * 0
    gt_masks = cat(
        [
            x.gt_masks.crop_and_resize(x.proposal_boxes.tensor, side).to(pred_mask_logits.device)
            for x in instances
        ],
        dim=0,
    )
    if pred_mask_logits.size(1) == 1:
        logits = pred_mask_logits[:, 0]
    else:
        classes = cat([x.gt_classes for x in instances], dim=0).to(torch.int64)
        rows = torch.arange(len(classes), device=pred_mask_logits.device)
        logits = pred_mask_logits[rows, classes]
    truth = gt_masks > 0.5 if gt_masks.dtype != torch.bool else gt_masks
    _log_mask_stats(logits.detach(), truth)
    storage = get_event_storage()
    if vis_period > 0 and storage.iter % vis_period == 0:
        pairs = torch.cat([logits.detach().sigmoid(), gt_masks.to(logits.dtype)], dim=2)
        for i, pair in enumerate(pairs.cpu()):
            image = (pair * 255).to(torch.uint8).expand(3, -1, -1)
            storage.put_image(f"Left: mask prediction;   Right: mask GT ({i})", image)
    return F.binary_cross_entropy_with_logits(logits, gt_masks.to(torch.float32))


def _log_mask_stats(logits: Tensor, truth: Tensor) -> None:
    wrong = (logits > 0) != truth
    counts = torch.stack([truth.sum(), wrong.sum(), (wrong & truth).sum()]).tolist()
    positive, errors, missed = counts
    storage = get_event_storage()
    storage.put_scalar("mask_rcnn/accuracy", 1 - errors / max(truth.numel(), 1))
    negative = max(truth.numel() - positive, 1)
    storage.put_scalar("mask_rcnn/false_positive", (errors - missed) / negative)
    storage.put_scalar("mask_rcnn/false_negative", missed / max(positive, 1))


def mask_rcnn_inference(pred_mask_logits: Tensor, pred_instances: list[Instances]) -> None:
    """Store ``pred_masks`` (N, 1, S, S), probabilities of the predicted class, in the instances."""
    if pred_mask_logits.size(1) == 1:
        probs = pred_mask_logits.sigmoid()
    else:
        classes = cat([x.pred_classes for x in pred_instances])
        rows = torch.arange(len(classes), device=classes.device)
        probs = pred_mask_logits[rows, classes][:, None].sigmoid()
    for part, instances in zip(probs.split([len(x) for x in pred_instances]), pred_instances):
        instances.pred_masks = part


class BaseMaskRCNNHead(nn.Module):
    """Loss and inference around ``layers``, which a subclass gives."""

    @configurable
    def __init__(self, *, loss_weight: float = 1.0, vis_period: int = 0):
        super().__init__()
        self.vis_period = vis_period
        self.loss_weight = loss_weight

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec) -> dict:
        return {"vis_period": cfg.VIS_PERIOD}

    def forward(self, x: Tensor, instances: list[Instances]):
        """Training: ``{"loss_mask"}``; testing: the instances with ``pred_masks``."""
        x = self.layers(x)
        if self.training:
            return {"loss_mask": mask_rcnn_loss(x, instances, self.vis_period) * self.loss_weight}
        mask_rcnn_inference(x, instances)
        return instances

    def layers(self, x: Tensor) -> Tensor:
        """Map pooled features (R, C, s, s) to logits (R, K or 1, S, S)."""
        raise NotImplementedError


# A Sequential as second base gives ``layers`` and flat key names at once.
@ROI_MASK_HEAD_REGISTRY.register()
class MaskRCNNConvUpsampleHead(BaseMaskRCNNHead, nn.Sequential):
    """3x3 convolutions ``mask_fcn1``.., a transposed convolution ``deconv``, 1x1 ``predictor``."""

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        conv_dims: Sequence[int],
        conv_norm: str = "",
        **kwargs,
    ):
        """``conv_dims``: widths of the convolutions and, last, of the transposed one.

        ``num_classes``: 1 for class-agnostic masks.
        """
        super().__init__(**kwargs)
        assert conv_dims, "the mask head needs at least one width"
        channels = input_shape.channels
        for k, dim in enumerate(conv_dims[:-1], start=1):
            conv = Conv2d(
                channels,
                dim,
                kernel_size=3,
                padding=1,
                bias=not conv_norm,
                norm=get_norm(conv_norm, dim),
                activation=nn.ReLU(),
            )
            weight_init.c2_msra_fill(conv)
            self.add_module(f"mask_fcn{k}", conv)
            channels = dim
        deconv = ConvTranspose2d(channels, conv_dims[-1], kernel_size=2, stride=2)
        weight_init.c2_msra_fill(deconv)
        self.add_module("deconv", deconv)
        self.add_module("deconv_relu", nn.ReLU())
        predictor = Conv2d(conv_dims[-1], num_classes, kernel_size=1)
        nn.init.normal_(predictor.weight, std=0.001)
        nn.init.constant_(predictor.bias, 0)
        self.add_module("predictor", predictor)

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec) -> dict:
        options = cfg.MODEL.ROI_MASK_HEAD
        classes = 1 if options.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES
        return {
            **super().from_config(cfg, input_shape),
            "input_shape": input_shape,
            "num_classes": classes,
            "conv_dims": [options.CONV_DIM] * (options.NUM_CONV + 1),
            "conv_norm": options.NORM,
        }

    def layers(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


def build_mask_head(cfg, input_shape: ShapeSpec) -> nn.Module:
    """Build ``cfg.MODEL.ROI_MASK_HEAD.NAME``."""
    return ROI_MASK_HEAD_REGISTRY.get(cfg.MODEL.ROI_MASK_HEAD.NAME)(cfg, input_shape)
