"""Classification and regression of pooled boxes (Fast R-CNN).

R proposals of all images, R_i of image i, K foreground classes; index K is the background.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec, batched_nms, cat, cross_entropy, nonzero_tuple
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from fvcore.nn import smooth_l1_loss as _smooth_l1_loss
from torch import Tensor, nn
from torch.nn import functional as F

from ..box_regression import Box2BoxTransform, _iou_box_loss

__all__ = ["FastRCNNOutputLayers", "fast_rcnn_inference"]


def fast_rcnn_inference(
    boxes: Sequence[Tensor],
    scores: Sequence[Tensor],
    image_shapes: Sequence[tuple[int, int]],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[list[Instances], list[Tensor]]:
    """Detections of each image: score above the threshold, NMS per class, the best ``topk``.

    ``boxes``: per image (R_i, 4 K) or (R_i, 4); ``scores``: (R_i, K + 1).
    Returns Instances with ``pred_boxes, scores, pred_classes`` and the kept rows of each image.
    A negative ``topk_per_image`` keeps all.
    """
    results = [
        _inference_single_image(
            box,
            score,
            shape,
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            topk=topk_per_image,
        )
        for box, score, shape in zip(boxes, scores, image_shapes)
    ]
    return [result for result, _ in results], [rows for _, rows in results]


def _inference_single_image(
    boxes: Tensor,
    scores: Tensor,
    image_shape: tuple[int, int],
    *,
    score_thresh: float,
    nms_thresh: float,
    topk: int,
) -> tuple[Instances, Tensor]:
    # A score that is not finite drops its proposal: comparisons with NaN are false.
    finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores).all(dim=1)
    above = (scores[:, :-1] > score_thresh) & finite[:, None]
    rows, classes = nonzero_tuple(above)
    clipped = Boxes(torch.where(finite[:, None], boxes, 0.0).reshape(-1, 4))
    clipped.clip(image_shape)
    boxes = clipped.tensor.view(len(scores), boxes.shape[1] // 4, 4)
    boxes = boxes[rows, classes if boxes.shape[1] > 1 else 0]
    scores = scores[rows, classes]
    keep = batched_nms(boxes, scores, classes, nms_thresh)
    if topk >= 0:
        keep = keep[:topk]
    result = Instances(image_shape)
    result.pred_boxes = Boxes(boxes[keep])
    result.scores = scores[keep]
    result.pred_classes = classes[keep]
    return result, rows[keep]


def _log_classification_stats(logits: Tensor, gt_classes: Tensor, prefix: str = "fast_rcnn"):
    """Put accuracies and the rate of missed foreground into the EventStorage."""
    total = gt_classes.numel()
    if total == 0:
        return
    background = logits.shape[1] - 1
    predicted = logits.argmax(dim=1)
    foreground = (gt_classes >= 0) & (gt_classes < background)
    right = predicted == gt_classes
    counts = torch.stack(
        [
            foreground.sum(),
            right.sum(),
            (right & foreground).sum(),
            ((predicted == background) & foreground).sum(),
        ]
    )
    num_foreground, num_right, num_right_foreground, num_missed = counts.tolist()
    storage = get_event_storage()
    storage.put_scalar(f"{prefix}/cls_accuracy", num_right / total)
    if num_foreground > 0:
        storage.put_scalar(f"{prefix}/fg_cls_accuracy", num_right_foreground / num_foreground)
        storage.put_scalar(f"{prefix}/false_negative", num_missed / num_foreground)


class FastRCNNOutputLayers(nn.Module):
    """Two linear layers, ``cls_score`` (K + 1) and ``bbox_pred`` (4 K, or 4 if class-agnostic)."""

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec | int,
        *,
        box2box_transform: Box2BoxTransform,
        num_classes: int,
        test_score_thresh: float = 0.0,
        test_nms_thresh: float = 0.5,
        test_topk_per_image: int = 100,
        cls_agnostic_bbox_reg: bool = False,
        smooth_l1_beta: float = 0.0,
        box_reg_loss_type: str = "smooth_l1",
        loss_weight: float | dict[str, float] = 1.0,
        use_sigmoid_ce: bool = False,
    ):
        """``use_sigmoid_ce``: one sigmoid per class instead of the softmax.

        ``loss_weight``: one factor, or one per loss name.
        """
        super().__init__()
        if isinstance(input_shape, int):
            input_shape = ShapeSpec(channels=input_shape)
        size = input_shape.channels * (input_shape.width or 1) * (input_shape.height or 1)
        self.num_classes = num_classes
        self.cls_score = nn.Linear(size, num_classes + 1)
        box_dim = 4
        self.bbox_pred = nn.Linear(size, box_dim * (1 if cls_agnostic_bbox_reg else num_classes))
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        for layer in (self.cls_score, self.bbox_pred):
            nn.init.constant_(layer.bias, 0)
        self.box2box_transform = box2box_transform
        self.smooth_l1_beta = smooth_l1_beta
        self.test_score_thresh = test_score_thresh
        self.test_nms_thresh = test_nms_thresh
        self.test_topk_per_image = test_topk_per_image
        self.box_reg_loss_type = box_reg_loss_type
        if isinstance(loss_weight, (int, float)):
            loss_weight = {"loss_cls": loss_weight, "loss_box_reg": loss_weight}
        self.loss_weight = loss_weight
        self.use_sigmoid_ce = use_sigmoid_ce

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec) -> dict:
        options = cfg.MODEL.ROI_BOX_HEAD
        if options.USE_FED_LOSS:
            raise NotImplementedError("MODEL.ROI_BOX_HEAD.USE_FED_LOSS: not in this Detectron2")
        return {
            "input_shape": input_shape,
            "box2box_transform": Box2BoxTransform(weights=options.BBOX_REG_WEIGHTS),
            "num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "cls_agnostic_bbox_reg": options.CLS_AGNOSTIC_BBOX_REG,
            "smooth_l1_beta": options.SMOOTH_L1_BETA,
            "test_score_thresh": cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
            "test_nms_thresh": cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
            "test_topk_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "box_reg_loss_type": options.BBOX_REG_LOSS_TYPE,
            "loss_weight": {"loss_box_reg": options.BBOX_REG_LOSS_WEIGHT},
            "use_sigmoid_ce": options.USE_SIGMOID_CE,
        }

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map features (R, ...) to logits (R, K + 1) and deltas (R, 4 K) or (R, 4)."""
        if x.dim() > 2:
            x = x.flatten(start_dim=1)
        return self.cls_score(x), self.bbox_pred(x)

    def losses(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor]:
        """``loss_cls`` and ``loss_box_reg``; proposals carry ``gt_classes`` and ``gt_boxes``."""
        logits, deltas = predictions
        if proposals:
            gt_classes = cat([p.gt_classes for p in proposals], dim=0)
            boxes = cat([p.proposal_boxes.tensor for p in proposals], dim=0)
            # Without an object an image has no gt_boxes; its proposals are background.
            gt_boxes = cat(
                [(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals],
                dim=0,
            )
        else:
            gt_classes = torch.empty(0, dtype=torch.int64, device=logits.device)
            boxes = gt_boxes = torch.empty((0, 4), device=deltas.device)
        _log_classification_stats(logits, gt_classes)
        if self.use_sigmoid_ce:
            loss_cls = self.sigmoid_cross_entropy_loss(logits, gt_classes)
        else:
            loss_cls = cross_entropy(logits, gt_classes, reduction="mean")
        losses = {
            "loss_cls": loss_cls,
            "loss_box_reg": self.box_reg_loss(boxes, gt_boxes, deltas, gt_classes),
        }
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    def sigmoid_cross_entropy_loss(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """Binary cross entropy of every class, summed over classes, mean over proposals."""
        if logits.numel() == 0:
            return logits.new_zeros(())
        target = F.one_hot(gt_classes, self.num_classes + 1)[:, : self.num_classes]
        loss = F.binary_cross_entropy_with_logits(
            logits[:, :-1], target.to(logits.dtype), reduction="sum"
        )
        return loss / len(logits)

    def box_reg_loss(
        self, proposal_boxes: Tensor, gt_boxes: Tensor, pred_deltas: Tensor, gt_classes: Tensor
    ) -> Tensor:
        """Box loss of the foreground, summed, over the number of all proposals (R or 1)."""
        foreground = nonzero_tuple((gt_classes >= 0) & (gt_classes < self.num_classes))[0]
        deltas = pred_deltas.unflatten(1, (-1, 4))
        deltas = deltas[foreground, gt_classes[foreground] if deltas.shape[1] > 1 else 0]
        boxes, target = proposal_boxes[foreground], gt_boxes[foreground]
        if self.box_reg_loss_type == "smooth_l1":
            loss = _smooth_l1_loss(
                deltas,
                self.box2box_transform.get_deltas(boxes, target),
                self.smooth_l1_beta,
                reduction="sum",
            )
        else:
            predicted = self.box2box_transform.apply_deltas(deltas, boxes)
            loss = _iou_box_loss(predicted, target, kind=self.box_reg_loss_type)
        return loss / max(gt_classes.numel(), 1.0)

    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """Detections of each image and the proposals they come from; see fast_rcnn_inference."""
        return fast_rcnn_inference(
            self.predict_boxes(predictions, proposals),
            self.predict_probs(predictions, proposals),
            [p.image_size for p in proposals],
            self.test_score_thresh,
            self.test_nms_thresh,
            self.test_topk_per_image,
        )

    def predict_boxes(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[Tensor, ...]:
        """Decoded boxes of each image, (R_i, 4 K) or (R_i, 4)."""
        if not proposals:
            return ()
        boxes = cat([p.proposal_boxes.tensor for p in proposals], dim=0)
        decoded = self.box2box_transform.apply_deltas(predictions[1], boxes)
        return decoded.split([len(p) for p in proposals])

    def predict_boxes_for_gt_classes(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[Tensor, ...]:
        """Decoded boxes (R_i, 4) of the ground-truth class of each proposal."""
        if not proposals:
            return ()
        boxes = cat(self.predict_boxes(predictions, proposals), dim=0)
        boxes = boxes.unflatten(1, (-1, 4))
        classes = cat([p.gt_classes for p in proposals], dim=0)
        # Background has no box of its own: any class serves.
        classes = classes.clamp(0, boxes.shape[1] - 1)
        boxes = boxes[torch.arange(len(boxes), device=boxes.device), classes]
        return boxes.split([len(p) for p in proposals])

    def predict_probs(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[Tensor, ...]:
        """Class probabilities of each image, (R_i, K + 1)."""
        logits = predictions[0]
        probs = logits.sigmoid() if self.use_sigmoid_ce else F.softmax(logits, dim=-1)
        return probs.split([len(p) for p in proposals], dim=0)
