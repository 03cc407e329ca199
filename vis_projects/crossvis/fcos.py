"""FCOS as CondInst uses it: head, losses, and the choice of detections.

Letters: B images, C classes, P positives, N detections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from detectron2.config import configurable
from detectron2.layers import batched_nms
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.structures import Instances
from torch import nn
from torch.nn import functional as F

from ..modeling.losses import class_focal_loss, ltrb_iou
from ..structures import InputError
from .fcos_head import FCOSHead, HeadOutputs
from .fcos_targets import TargetAssigner, Targets
from .locations import Cells, cells_at, flatten_levels

_LOCALISATION = ("giou", "iou", "linear_iou")


def mean_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """Mean of a tensor over the training processes; the tensor itself in a single process."""
    dist = torch.distributed
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value / dist.get_world_size()


@dataclass
class Detections:
    """Detections of one image, best first.

    Attributes:
        boxes: (N, 4) XYXY in pixels of the padded input, not clipped.
        scores: (N,), sqrt(class probability * centerness).
        classes: int64 (N,).
        cells: where they were detected; ``image`` is the index in the batch.
        flat: (N,) their position in flat order.
        locations: (N, 2) x, y in pixels.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    classes: torch.Tensor
    cells: Cells
    flat: torch.Tensor
    locations: torch.Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, keep: torch.Tensor) -> Detections:
        return Detections(*(getattr(self, f.name)[keep] for f in fields(self)))


@PROPOSAL_GENERATOR_REGISTRY.register()
class FCOS(nn.Module):
    """One-stage detector (Tian et al., "FCOS").

    Args:
        head: the network.
        in_features: FPN levels, finest first.
        strides: theirs, in pixels.
        assigner: gives the targets.
        focal_alpha, focal_gamma: of the class loss.
        loss_weight_cls: factor of the class loss.
        loc_loss_type: "giou", "iou" (-ln IoU) or "linear_iou".
        score_thresh: candidates are the (location, class) above it.
        thresh_with_ctr: it applies to class * centerness instead of the class alone.
        pre_nms_topk: candidates kept per level.
        nms_thresh: IoU above which the lower of two boxes of one class goes.
        post_nms_topk: detections kept per image; ties with the last one stay, 0: all.
    """

    @configurable
    def __init__(
        self,
        *,
        head: FCOSHead,
        in_features: Sequence[str],
        strides: Sequence[int],
        assigner: TargetAssigner,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        loss_weight_cls: float = 1.0,
        loc_loss_type: str = "giou",
        score_thresh: float = 0.05,
        thresh_with_ctr: bool = True,
        pre_nms_topk: int = 1000,
        nms_thresh: float = 0.6,
        post_nms_topk: int = 100,
    ) -> None:
        super().__init__()
        if loc_loss_type not in _LOCALISATION:
            raise InputError(
                f"MODEL.FCOS.LOC_LOSS_TYPE {loc_loss_type!r} is unknown: use one of {_LOCALISATION}"
            )
        self.fcos_head = head
        self.in_features = list(in_features)
        self.strides = list(strides)
        self.assigner = assigner
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.loss_weight_cls = loss_weight_cls
        self.loc_loss_type = loc_loss_type
        self.score_thresh = score_thresh
        self.thresh_with_ctr = thresh_with_ctr
        self.pre_nms_topk = pre_nms_topk
        self.nms_thresh = nms_thresh
        self.post_nms_topk = post_nms_topk

    @classmethod
    def from_config(cls, cfg, input_shape: Mapping[str, object], embedding_dim: int = 0) -> dict:
        node = cfg.MODEL.FCOS
        _check_options(node, input_shape)
        return {
            "head": FCOSHead(cfg, input_shape[node.IN_FEATURES[0]].channels, embedding_dim),
            "in_features": node.IN_FEATURES,
            "strides": node.FPN_STRIDES,
            "assigner": TargetAssigner(
                strides=node.FPN_STRIDES,
                sizes_of_interest=node.SIZES_OF_INTEREST,
                num_classes=node.NUM_CLASSES,
                centre_sampling=node.CENTER_SAMPLE,
                radius=node.POS_RADIUS,
            ),
            "focal_alpha": node.LOSS_ALPHA,
            "focal_gamma": node.LOSS_GAMMA,
            "loss_weight_cls": node.LOSS_WEIGHT_CLS,
            "loc_loss_type": node.LOC_LOSS_TYPE,
            "score_thresh": node.INFERENCE_TH_TEST,
            "thresh_with_ctr": node.THRESH_WITH_CTR,
            "pre_nms_topk": node.PRE_NMS_TOPK_TEST,
            "nms_thresh": node.NMS_TH,
            "post_nms_topk": node.POST_NMS_TOPK_TEST,
        }

    def forward(self, features: Mapping[str, torch.Tensor]) -> HeadOutputs:
        """Run the head on the FPN's levels."""
        return self.fcos_head([features[name] for name in self.in_features])

    # Training ------------------------------------------------------------------------------------

    def assign(self, outputs: HeadOutputs, instances: Sequence[Instances]) -> Targets:
        """Targets for outputs of a batch with the given ground truth."""
        return self.assigner([tuple(m.shape[2:]) for m in outputs.logits], instances)

    def losses(self, outputs: HeadOutputs, targets: Targets) -> dict[str, torch.Tensor]:
        """``loss_fcos_cls``, ``loss_fcos_loc`` and ``loss_fcos_ctr`` of a batch."""
        logits = flatten_levels(outputs.logits).float()
        distances = flatten_levels(outputs.distances)[targets.positive].float()
        centerness = flatten_levels(outputs.centerness)[targets.positive, 0].float()
        sums = logits.new_tensor([float(len(targets)), 0.0])
        sums[1] = targets.centerness.sum()
        positives, weight = mean_over_ranks(sums)
        positives, weight = positives.clamp(min=1), weight.clamp(min=1e-6)
        classes = class_focal_loss(
            logits, targets.labels, alpha=self.focal_alpha, gamma=self.focal_gamma
        )
        boxes = self._localisation(distances, targets.distances)
        quality = F.binary_cross_entropy_with_logits(
            centerness, targets.centerness, reduction="sum"
        )
        return {
            "loss_fcos_cls": self.loss_weight_cls * classes / positives,
            "loss_fcos_loc": (boxes * targets.centerness).sum() / weight,
            "loss_fcos_ctr": quality / positives,
        }

    def _localisation(self, predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        iou, giou = ltrb_iou(predicted, target)
        if self.loc_loss_type == "giou":
            return 1 - giou
        return -iou.log() if self.loc_loss_type == "iou" else 1 - iou

    # Inference -----------------------------------------------------------------------------------

    @torch.no_grad()
    def detect(self, outputs: HeadOutputs, image: int = 0) -> Detections:
        """Choose the detections of one image of the batch.

        Host synchronisations: one for the candidates, one for the kept boxes, one for ties.
        """
        sizes = [tuple(m.shape[2:]) for m in outputs.logits]
        images = len(outputs.logits[0])
        scores, classes, flat, start = [], [], [], 0
        for logits, ctr in zip(outputs.logits, outputs.centerness):
            level_scores, level_classes, cell = self._candidates(
                logits[image].float(), ctr[image].float()
            )
            cells = logits.shape[2] * logits.shape[3]
            scores.append(level_scores)
            classes.append(level_classes)
            flat.append(cell + (start + image * cells))
            start += images * cells
        scores, classes, flat = torch.cat(scores), torch.cat(classes), torch.cat(flat)
        candidates = (scores > 0).nonzero()[:, 0]
        scores, classes, flat = scores[candidates], classes[candidates], flat[candidates]
        cells = cells_at(flat, sizes, images)
        locations = cells.locations(self.strides)
        boxes = self._boxes(outputs, cells, flat, locations)
        scores = scores.sqrt()
        keep = batched_nms(boxes, scores, classes, self.nms_thresh)
        found = Detections(boxes, scores, classes, cells, flat, locations)
        return found[self._best(scores, keep)]

    def _candidates(
        self, logits: torch.Tensor, ctr: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Best (location, class) of a level (C, h, w): scores, classes, cells; score 0 is none."""
        num_classes = len(logits)
        probability = logits.sigmoid().flatten(1)
        joint = probability * ctr.sigmoid().flatten(1)
        decisive = joint if self.thresh_with_ctr else probability
        joint = torch.where(decisive > self.score_thresh, joint, 0.0)
        joint = joint.T.reshape(-1)  # location-major
        scores, index = joint.topk(min(self.pre_nms_topk, len(joint)))
        cell = torch.div(index, num_classes, rounding_mode="floor")
        return scores, index - cell * num_classes, cell

    def _boxes(
        self,
        outputs: HeadOutputs,
        cells: Cells,
        flat: torch.Tensor,
        locations: torch.Tensor,
    ) -> torch.Tensor:
        distances = flatten_levels(outputs.distances)[flat].float()
        stride = torch.tensor(self.strides).to(flat.device, non_blocking=True)[cells.level]
        distances = distances * stride[:, None]
        return torch.cat([locations - distances[:, :2], locations + distances[:, 2:]], 1)

    def _best(self, scores: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        """Cut the kept detections (best first) to the limit; ties with the last one stay."""
        if not 0 < self.post_nms_topk < len(keep):
            return keep
        kept = scores[keep]
        return keep[kept >= kept[self.post_nms_topk - 1]]


def _check_options(node, input_shape: Mapping[str, object]) -> None:
    """Refuse options of FCOS that would be ignored silently."""
    if node.BOX_QUALITY != "ctrness":
        raise InputError(
            f"MODEL.FCOS.BOX_QUALITY {node.BOX_QUALITY!r} is not provided: use 'ctrness'"
        )
    if node.LOSS_NORMALIZER_CLS != "fg":
        raise InputError(
            f"MODEL.FCOS.LOSS_NORMALIZER_CLS {node.LOSS_NORMALIZER_CLS!r} is not provided: use 'fg'"
        )
    missing = [name for name in node.IN_FEATURES if name not in input_shape]
    if missing:
        raise InputError(
            f"MODEL.FCOS.IN_FEATURES names {missing[0]!r}, but the backbone gives "
            f"{', '.join(input_shape)}: check MODEL.FCOS.TOP_LEVELS and MODEL.BACKBONE.NAME"
        )
    strides = [input_shape[name].stride for name in node.IN_FEATURES]
    if list(strides) != list(node.FPN_STRIDES):
        raise InputError(
            f"MODEL.FCOS.FPN_STRIDES is {list(node.FPN_STRIDES)}, but the levels' strides are "
            f"{strides}"
        )
