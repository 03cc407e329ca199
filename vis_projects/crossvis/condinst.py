"""CondInst: instance segmentation of stills with filters that each instance brings along.

Letters: B images, P positives, N detections, G objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import Boxes, Instances
from torch import nn

from ..data.class_check import with_counted_classes
from ..modeling import Preprocess, VideoModel, shortest_edge, stage
from ..modeling.exported_network import ExportedNetwork
from ..modeling.losses import dice_loss
from ..structures import Frame, InputError
from .dynamic_mask_head import DynamicMaskHead
from .exported import exported_networks
from .fcos import FCOS, Detections
from .fcos_head import HeadOutputs
from .fcos_targets import Targets
from .locations import conv3x3_at, flatten_levels
from .mask_branch import MaskBranch
from .mask_output import enlarge_masks
from .mask_targets import sampled_masks, with_bitmasks


@dataclass
class FrameBatch:
    """One training pass over B images.

    Attributes:
        outputs: of the FCOS head.
        targets: of all its locations.
        params: (P, 169) filters of the positives.
        mask_feats: (B, C, h, w).
        masks: (G, H, W) ground truth on the grid of the mask logits.
        objects: the images' ground truth.
    """

    outputs: HeadOutputs
    targets: Targets
    params: torch.Tensor
    mask_feats: torch.Tensor
    masks: torch.Tensor
    objects: list[Instances]


@dataclass
class FrameDetections:
    """What is known of a frame before its masks are made.

    Attributes:
        found: N detections, best first, boxes in pixels of the padded input.
        boxes: (N, 4) the same in output pixels, clipped.
        embeddings: (N, E), raw; E is 0 without the embedding tower.
        params: (N, 169) filters.
        mask_feats: (1, C, h, w).
        image_size: (h, w) of the unpadded network input.
        output_size: (H, W).
    """

    found: Detections
    boxes: torch.Tensor
    embeddings: torch.Tensor
    params: torch.Tensor
    mask_feats: torch.Tensor
    image_size: tuple[int, int]
    output_size: tuple[int, int]


def scale_gradient(x: torch.Tensor, factor: float) -> torch.Tensor:
    """The same values, the gradient times ``factor``."""
    return x if factor == 1.0 else factor * x + (1 - factor) * x.detach()


@META_ARCH_REGISTRY.register()
class CondInst(VideoModel):
    """CondInst on FCOS, for stills (Tian et al., "Conditional Convolutions").

    An image gives detections without ids; it does not run on videos.

    Args:
        backbone: gives the pyramid.
        proposal_generator: FCOS.
        mask_branch, mask_head: see there.
        preprocess: how frames reach the network.
        max_proposals: see ``MODEL.CONDINST.MAX_PROPOSALS``.
        topk_proposals_per_im: see ``MODEL.CONDINST.TOPK_PROPOSALS_PER_IM``.
    """

    online = False
    embedding_dim = 0
    classes_key = "MODEL.FCOS.NUM_CLASSES"

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: FCOS,
        mask_branch: MaskBranch,
        mask_head: DynamicMaskHead,
        preprocess: Preprocess,
        max_proposals: int = 500,
        topk_proposals_per_im: int = -1,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if max_proposals != -1 and topk_proposals_per_im != -1:
            raise InputError(
                "MODEL.CONDINST.MAX_PROPOSALS and TOPK_PROPOSALS_PER_IM are both set: "
                "switch one of them off with -1"
            )
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self.mask_branch = mask_branch
        self.mask_head = mask_head
        in_channels = proposal_generator.fcos_head.in_channels
        self.controller = nn.Conv2d(in_channels, mask_head.num_params, 3, padding=1)
        nn.init.normal_(self.controller.weight, std=0.01)
        nn.init.zeros_(self.controller.bias)
        self.preprocess = preprocess
        self.max_proposals = max_proposals
        self.topk_proposals_per_im = topk_proposals_per_im

    @property
    def num_classes(self) -> int:
        """Classes that the head tells apart."""
        return self.proposal_generator.fcos_head.cls_logits.out_channels

    @classmethod
    def from_config(cls, cfg) -> dict[str, Any]:
        cfg = with_counted_classes(cfg, cls.classes_key)
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        embedding_dim = cls.embedding_dim and cfg.MODEL.CROSSVIS.EMBEDDING.DIM
        preprocess = Preprocess(
            cfg.MODEL.PIXEL_MEAN,
            cfg.MODEL.PIXEL_STD,
            size_rule=shortest_edge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST),
            frame_format=cfg.INPUT.FORMAT,
            divisibility=backbone.size_divisibility,
            on_device=cfg.MODEL.RESIZE_ON_DEVICE,
        )
        stride = shapes[cfg.MODEL.CONDINST.MASK_BRANCH.IN_FEATURES[0]].stride
        return {
            **cls.base_config(cfg),
            "backbone": backbone,
            "proposal_generator": FCOS(cfg, shapes, embedding_dim),
            "mask_branch": MaskBranch(cfg, shapes),
            "mask_head": DynamicMaskHead(cfg, stride),
            "preprocess": preprocess,
            "max_proposals": cfg.MODEL.CONDINST.MAX_PROPOSALS,
            "topk_proposals_per_im": cfg.MODEL.CONDINST.TOPK_PROPOSALS_PER_IM,
        }

    def frame_networks(self) -> list[nn.Module]:
        return [self.backbone, self.mask_branch]

    def exported_networks(self, size: tuple[int, int]) -> Sequence[ExportedNetwork]:
        """What ``vis export model`` writes; ``size`` is that of the network's input."""
        return exported_networks(self, size)

    # Training ------------------------------------------------------------------------------------

    def losses(self, items: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Losses of stills: Detectron2's items (``image``, ``instances``) or clips of one frame."""
        images = [_first(item["image"]) for item in items]
        instances = [_first(item["instances"]) for item in items]
        batch = self.train_frames(images, instances)
        return {**self.detection_losses(batch), "loss_mask": self.mask_loss(batch)}

    def train_frames(
        self,
        images: Sequence[torch.Tensor],
        instances: Sequence[Instances],
        *,
        backbone_grad_scale: float = 1.0,
    ) -> FrameBatch:
        """Run the network on uint8 images (3, h, w) and match it with the ground truth."""
        ready = self.preprocess.normalise(images)
        objects = [with_bitmasks(x.to(self.device)) for x in instances]
        features = self.backbone(ready.tensor)
        features = {k: scale_gradient(v, backbone_grad_scale) for k, v in features.items()}
        outputs = self.proposal_generator(features)
        targets = self.proposal_generator.assign(outputs, objects)
        return FrameBatch(
            outputs,
            targets,
            conv3x3_at(outputs.bbox_features, self.controller, targets.cells),
            self.mask_branch(features),
            sampled_masks(objects, tuple(ready.tensor.shape[-2:]), self.mask_head.mask_stride),
            objects,
        )

    def detection_losses(self, batch: FrameBatch) -> dict[str, torch.Tensor]:
        """``loss_fcos_cls``, ``loss_fcos_loc``, ``loss_fcos_ctr``."""
        return self.proposal_generator.losses(batch.outputs, batch.targets)

    def mask_loss(self, batch: FrameBatch) -> torch.Tensor:
        """Mean dice loss of the positives' masks (CrossVIS, Eqs. 4, 8)."""
        rows = self.choose_positives(batch)
        return self.dice(batch, rows, batch.params[rows], batch.targets.gt_inds[rows])

    def dice(
        self,
        batch: FrameBatch,
        places: torch.Tensor,
        params: torch.Tensor,
        objects: torch.Tensor,
    ) -> torch.Tensor:
        """Mean dice loss of filters applied at positives of a batch; 0 with a graph for none.

        Args:
            places: (M,) positives that give image, location and level.
            params: (M, 169).
            objects: (M,) whose masks supervise.
        """
        if len(places) == 0:
            return params.sum() * 0 + batch.mask_feats.sum() * 0
        logits = self.mask_head(
            batch.mask_feats,
            params,
            batch.targets.locations[places],
            batch.targets.cells.level[places],
            batch.targets.cells.image[places],
        )
        return dice_loss(logits.float().sigmoid(), batch.masks[objects]).mean()

    def choose_positives(self, batch: FrameBatch) -> torch.Tensor:
        """Rows of the positives that feed a mask loss; every call draws anew."""
        count = len(batch.targets)
        rows = torch.arange(count, device=batch.params.device)
        if self.topk_proposals_per_im > 0:
            return rows[self._best_per_object(batch)]
        if 0 <= self.max_proposals < count:
            return torch.randperm(count, device=rows.device)[: self.max_proposals]
        return rows

    @torch.no_grad()
    def _best_per_object(self, batch: FrameBatch) -> torch.Tensor:
        """Which positives (P,) are among their object's best max(int(k / objects of image), 1)."""
        targets = batch.targets
        logits = flatten_levels(batch.outputs.logits)[targets.positive]
        ctr = flatten_levels(batch.outputs.centerness)[targets.positive, 0]
        quality = logits.amax(1).sigmoid() * ctr.sigmoid()
        objects, total = targets.gt_inds, len(batch.masks)
        order = quality.argsort(descending=True, stable=True)
        order = order[objects[order].argsort(stable=True)]  # by object, best first
        count = torch.bincount(objects, minlength=total)
        start = count.cumsum(0) - count
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device) - start[objects[order]]
        image_of = torch.zeros(total, dtype=torch.int64, device=order.device)
        image_of[objects] = targets.cells.image
        seen = torch.bincount(image_of[count > 0], minlength=len(batch.objects)).clamp(min=1)
        limit = (self.topk_proposals_per_im // seen).clamp(min=1)
        return rank < limit[targets.cells.image]

    # Inference -----------------------------------------------------------------------------------

    def detect(self, frame: Frame) -> FrameDetections:
        """Detect the objects of a frame; masks follow for those that are wanted (``masks``)."""
        with stage("preprocess"):
            images = self.preprocess([frame])
        with self.autocast():
            with stage("backbone"):
                features = self.backbone(images.tensor)
            with stage("head"):
                outputs = self.proposal_generator(features)
            with stage("mask branch"):
                mask_feats = self.mask_branch(features)
            with stage("detection"):
                found = self.proposal_generator.detect(outputs)
                size, boxes = frame.size, _rescale(found.boxes, images.image_sizes[0], frame.size)
                visible = ((boxes[:, 2:] > boxes[:, :2]).all(1)).nonzero()[:, 0]
                found, boxes = found[visible], boxes[visible]
                params = conv3x3_at(outputs.bbox_features, self.controller, found.cells)
                embeddings = boxes.new_zeros(len(boxes), 0)
                if outputs.embeddings:
                    embeddings = flatten_levels(outputs.embeddings)[found.flat].float()
        return FrameDetections(
            found,
            boxes,
            embeddings,
            params.float(),
            mask_feats.float(),
            images.image_sizes[0],
            size,
        )

    def mask_probabilities(
        self, detections: FrameDetections, rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Mask probabilities (N, h, w) of the chosen detections on the padded input's grid."""
        found, params = detections.found, detections.params
        level, locations = found.cells.level, found.locations
        if rows is not None:
            params, level, locations = params[rows], level[rows], locations[rows]
        return self.mask_head(detections.mask_feats, params, locations, level).sigmoid()

    def masks(self, detections: FrameDetections, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Binary masks (N, H, W) of the chosen detections in the output's size."""
        with stage("masks"):
            return enlarge_masks(
                self.mask_probabilities(detections, rows),
                self.mask_head.mask_stride,
                detections.image_size,
                detections.output_size,
            )

    def detect_image(self, frame: Frame) -> Instances:
        """``pred_boxes``, ``scores``, ``pred_classes`` and ``pred_masks`` of an image."""
        detections = self.detect(frame)
        found = detections.found
        return Instances(
            detections.output_size,
            pred_boxes=Boxes(detections.boxes),
            scores=found.scores,
            pred_classes=found.classes,
            pred_masks=self.masks(detections),
        )

    def run_video(self, source: Any, *args: Any, **kwargs: Any) -> Any:
        """Refused: stills have no tracks.

        Raises:
            InputError: always.
        """
        raise InputError(
            "CondInst segments stills and links nothing: use MODEL.META_ARCHITECTURE CrossVIS "
            "for videos (it loads the same weights)"
        )


def _rescale(
    boxes: torch.Tensor, image_size: tuple[int, int], output_size: tuple[int, int]
) -> torch.Tensor:
    """Boxes of the unpadded network input in pixels of the output, clipped to it."""
    (h, w), (height, width) = image_size, output_size
    x = (boxes[:, 0::2] * (width / w)).clamp(0, width)
    y = (boxes[:, 1::2] * (height / h)).clamp(0, height)
    return torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1)


def _first(value: Any) -> Any:
    """The only element of a clip of one frame; Detectron2's stills carry no list."""
    return value[0] if isinstance(value, (list, tuple)) else value
