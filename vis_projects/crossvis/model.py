"""CrossVIS: CondInst frame by frame, trained across frames, with embeddings that link them.

Letters: P positives of a frame batch, N detections of a frame.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes
from torch import nn

from ..data import num_identities
from ..modeling import VideoModel, stage
from ..structures import Frame, FrameResult, InputError, VideoInfo
from .association import DISCARDED
from .condinst import CondInst, FrameBatch
from .crossover import borrow, match_objects
from .gallery import Gallery
from .identity_loss import (
    EMBEDDINGS,
    LOSSES,
    global_identity_loss,
    mean_embeddings,
    pairwise_identity_loss,
)
from .locations import flatten_levels


@META_ARCH_REGISTRY.register()
class CrossVIS(CondInst):
    """Online video instance segmentation (Yang et al., "Crossover Learning").

    A single image (Detectron2's ``DefaultPredictor``) advances the running stream and sets
    ``pred_ids``; an image of another size, or ``reset()``, starts a new one. Detections that lose
    their track to a better one are left out of the result.

    Args:
        gallery: links the detections of successive frames.
        num_identities: objects of the training sets, M.
        crossover: train with crossover learning (section 3.2).
        embedding: "global" or "pairwise" (section 3.3).
        identity_loss: "focal" or "ce".
        identity_weight: factor of ``loss_reid``.
        pairwise_scale: factor on the products of a pairwise embedding; 0: 1 / its channels.
        backbone_grad_scale: factor on the gradient that reaches backbone and FPN.
        condinst: the arguments of ``CondInst``.
    """

    online = True
    unused_at_test = ("cls",)
    identities_keys = ("MODEL.CROSSVIS.NUM_IDENTITIES",)
    keep_empty_masks = True  # the released code scores a track by all of its detections
    embedding_dim = 256

    @configurable
    def __init__(
        self,
        *,
        gallery: Gallery,
        num_identities: int = 3774,
        crossover: bool = True,
        embedding: str = "global",
        identity_loss: str = "focal",
        identity_weight: float = 1.0,
        pairwise_scale: float = 0.0,
        backbone_grad_scale: float = 0.1,
        **condinst: Any,
    ) -> None:
        super().__init__(**condinst)
        for key, value, known in (
            ("TYPE", embedding, EMBEDDINGS),
            ("LOSS", identity_loss, LOSSES),
        ):
            if value not in known:
                raise InputError(
                    f"MODEL.CROSSVIS.EMBEDDING.{key} {value!r} is unknown: use {' or '.join(known)}"
                )
        self.gallery = gallery
        self.crossover = crossover
        self.identity_loss = identity_loss
        self.identity_weight = identity_weight
        self.backbone_grad_scale = backbone_grad_scale
        self.cls: nn.Linear | None = None
        dim = self.proposal_generator.fcos_head.reid_pred.out_channels
        self.pairwise_scale = pairwise_scale or 1 / dim
        # The association multiplies embeddings as the loss that trained them did.
        self.embedding_scale = 1.0 if embedding == "global" else math.sqrt(self.pairwise_scale)
        if embedding == "global":
            self.cls = nn.Linear(dim, num_identities)
            nn.init.normal_(self.cls.weight, std=0.01)
            nn.init.constant_(self.cls.bias, -math.log(99))

    @classmethod
    def from_config(cls, cfg) -> dict[str, Any]:
        node = cfg.MODEL.CROSSVIS
        tracker = node.TRACKER
        identities = node.NUM_IDENTITIES
        if node.EMBEDDING.TYPE == "global" and identities == 0:
            identities = _count_identities(cfg)
        return {
            **super().from_config(cfg),
            "gallery": Gallery(
                tracker.RULE,
                match_thresh=tracker.MATCH_THRESH,
                max_age=tracker.MAX_AGE,
                max_tracks=tracker.MAX_TRACKS,
            ),
            "num_identities": identities,
            "crossover": node.CROSSOVER.ENABLED,
            "embedding": node.EMBEDDING.TYPE,
            "identity_loss": node.EMBEDDING.LOSS,
            "identity_weight": node.EMBEDDING.LOSS_WEIGHT,
            "pairwise_scale": node.EMBEDDING.PAIRWISE_SCALE,
            "backbone_grad_scale": node.BACKBONE_GRAD_SCALE,
        }

    # Training ------------------------------------------------------------------------------------

    def losses(self, items: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Losses of frame pairs: of each frame by itself (averaged), across them, and of the ids.

        An item has two images and two ``Instances`` with ``gt_boxes``, ``gt_classes``,
        ``gt_masks``, ``gt_ids`` and, for the global embedding, ``gt_identity``.

        Raises:
            InputError: an item is no pair, or an identity exceeds the classifier.
        """
        self._check(items)
        frames = [
            self.train_frames(
                [item["image"][t] for item in items],
                [item["instances"][t] for item in items],
                backbone_grad_scale=self.backbone_grad_scale,
            )
            for t in (0, 1)
        ]
        each = [{**self.detection_losses(f), "loss_mask": self.mask_loss(f)} for f in frames]
        losses = {name: (each[0][name] + each[1][name]) / 2 for name in each[0]}
        partners = [
            match_objects(frames[0].objects, frames[1].objects),
            match_objects(frames[1].objects, frames[0].objects),
        ]
        if self.crossover:
            losses["loss_cross_over"] = (
                self._crossover_loss(frames[0], frames[1], partners[0])
                + self._crossover_loss(frames[1], frames[0], partners[1])
            ) / 2
        losses["loss_reid"] = self.identity_weight * self._identity_loss(frames, partners)
        return losses

    def _check(self, items: Sequence[Mapping[str, Any]]) -> None:
        for item in items:
            if len(item["image"]) != 2 or isinstance(item["image"], torch.Tensor):
                raise InputError(
                    "CrossVIS trains on pairs of frames: set INPUT.SAMPLER.NAME to 'pair'"
                )
            for instances in item["instances"] if self.cls is not None else ():
                highest = int(instances.gt_identity.max()) if len(instances) else -1
                if highest >= self.cls.out_features:
                    raise InputError(
                        f"the training set has identity {highest}, but "
                        f"MODEL.CROSSVIS.NUM_IDENTITIES is {self.cls.out_features}: "
                        "set it to 0 to count them"
                    )

    def draw(self, count: int) -> torch.Tensor:
        """Uniform numbers (count,) that choose where borrowed filters are applied."""
        return torch.rand(count, device=self.device)

    def _crossover_loss(
        self, lender: FrameBatch, where: FrameBatch, partner: torch.Tensor
    ) -> torch.Tensor:
        """Mean dice loss of ``lender``'s filters on the other frame (Eq. 6 or 7)."""
        rows = self.choose_positives(lender)
        pairs = borrow(
            lender.targets.gt_inds[rows], where.targets.gt_inds, partner, self.draw(len(rows))
        )
        return self.dice(where, pairs.place, lender.params[rows[pairs.lender]], pairs.target)

    def _identity_loss(
        self, frames: Sequence[FrameBatch], partners: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        embeddings = [
            flatten_levels(f.outputs.embeddings)[f.targets.positive].float() for f in frames
        ]
        if self.cls is not None:
            identities = [
                torch.cat([x.gt_identity for x in f.objects])[f.targets.gt_inds] for f in frames
            ]
            return global_identity_loss(
                torch.cat(embeddings), torch.cat(identities), self.cls, loss=self.identity_loss
            )
        total = embeddings[0].new_zeros(())
        for key, reference in ((0, 1), (1, 0)):
            total = total + self._pairwise(
                frames[key],
                embeddings[key],
                frames[reference],
                embeddings[reference],
                partners[key],
            )
        return total / 2

    def _pairwise(
        self,
        key: FrameBatch,
        embeddings: torch.Tensor,
        reference: FrameBatch,
        reference_embeddings: torch.Tensor,
        partner: torch.Tensor,
    ) -> torch.Tensor:
        count = len(reference.masks)
        objects = reference.targets.gt_inds
        means, present = mean_embeddings(reference_embeddings, objects, count)
        images = objects.new_zeros(count)
        images[objects] = reference.targets.cells.image
        return pairwise_identity_loss(
            embeddings,
            partner[key.targets.gt_inds],
            key.targets.cells.image,
            means,
            images,
            present,
            loss=self.identity_loss,
            scale=self.pairwise_scale,
        )

    # Inference -----------------------------------------------------------------------------------

    def begin(self, info: VideoInfo) -> None:
        self.gallery.reset()

    def segment(self, frame: Frame, new_masks: Any = None) -> FrameResult:
        """Detect, link, and make the masks of the detections that stay."""
        detections = self.detect(frame)
        found = detections.found
        with stage("association"):
            ids = torch.from_numpy(
                self.gallery.update(
                    detections.boxes,
                    found.classes,
                    found.scores,
                    detections.embeddings * self.embedding_scale,
                )
            )
            rows = (ids != DISCARDED).nonzero()[:, 0]  # on the host
            ids = ids[rows].to(self.device, non_blocking=True)
            rows = rows.to(self.device, non_blocking=True)
        result = FrameResult.build(
            self.masks(detections, rows),
            ids,
            scores=found.scores[rows],
            classes=found.classes[rows],
            index=frame.index,
        )
        result.instances.pred_boxes = Boxes(detections.boxes[rows])
        return result

    # CondInst refuses videos.
    run_video = VideoModel.run_video


def _count_identities(cfg) -> int:
    """Objects of all training sets; 1 where they are not at hand (evaluation needs none)."""
    try:
        return max(num_identities(cfg.DATASETS.TRAIN), 1)
    except InputError:
        return 1
