"""Propose-Reduce on one video: detect at key frames, propagate, score, reduce.

Letters: N sequences, T frames, H x W the padded size of the network, C foreground classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.config import configurable

from ..modeling import pairwise_mask_iou, stage, steps
from ..structures import InputError
from .guidance import keep_distinct
from .k_propagation import FrameFeatures, KPropagation, Proposal
from .key_frames import RULES, select_key_frames
from .packed_tubes import PackedTubes
from .seq_prop_head import FrameQuery
from .sequence_reduction import ReductionOptions, reduce_sequences
from .sequence_scores import MEANS, boxes_of_masks, sequence_class_scores


@dataclass(frozen=True)
class VideoFeatures:
    """What Propose-Reduce keeps of a frame while the cache has room.

    Attributes:
        pyramid: P2 to P6 by name, each (1, C, h, w).
        query: of the Seq-Prop head.
    """

    pyramid: dict[str, torch.Tensor]
    query: FrameQuery

    def tensors(self) -> list[torch.Tensor]:
        return [
            *self.pyramid.values(),
            self.query.key,
            self.query.value,
            *self.query.skips.values(),
        ]


GetFeatures = Callable[[int], VideoFeatures]


class ProposeReduce:
    """The inference paradigm, without a network of its own.

    Args:
        propagation: Algorithm 1.
        reduction: section 3.2.
        num_key_frames, key_frame_rule: see ``select_key_frames``.
        proposal_iou: proposals of a key frame that overlap a better one this much are dropped.
        mask_thresh: probability from which on a pixel belongs to a sequence.
        score_mean: see ``sequence_class_scores``.
    """

    @configurable
    def __init__(
        self,
        *,
        propagation: KPropagation,
        reduction: ReductionOptions,
        num_key_frames: int = 5,
        key_frame_rule: str = "released",
        proposal_iou: float = 0.2,
        mask_thresh: float = 0.5,
        score_mean: str = "visible",
    ) -> None:
        if score_mean not in MEANS:
            raise InputError(
                f"MODEL.SEQ_MASK_RCNN.SCORE_MEAN {score_mean!r} is unknown: use visible or all"
            )
        if key_frame_rule not in RULES:
            select_key_frames(1, 1, rule=key_frame_rule)  # raises
        self.propagation = propagation
        self.reduction = reduction
        self.num_key_frames, self.key_frame_rule = num_key_frames, key_frame_rule
        self.proposal_iou = proposal_iou
        self.mask_thresh = mask_thresh
        self.score_mean = score_mean

    @classmethod
    def from_config(cls, cfg) -> dict:
        node = cfg.MODEL.SEQ_MASK_RCNN
        return {
            "propagation": KPropagation(cfg),
            "reduction": ReductionOptions(
                mode=node.REDUCE.MODE,
                score_thresh=node.REDUCE.SCORE_THRESH,
                iou_thresh=node.REDUCE.IOU_THRESH,
                sigma=node.REDUCE.SIGMA,
                max_sequences=node.REDUCE.MAX_SEQUENCES,
                class_score_thresh=node.REDUCE.CLASS_SCORE_THRESH,
                class_max=node.REDUCE.CLASS_MAX,
            ),
            "num_key_frames": node.NUM_KEY_FRAMES,
            "key_frame_rule": node.KEY_FRAME_RULE,
            "proposal_iou": node.PROPOSAL_IOU_THRESH,
            "mask_thresh": node.MASK_THRESH,
            "score_mean": node.SCORE_MEAN,
        }

    def key_frames(self, length: int) -> list[int]:
        """Return the key frames of a video of ``length`` frames."""
        return select_key_frames(length, self.num_key_frames, rule=self.key_frame_rule)

    def proposals(
        self, key_frames: Sequence[int], detect: Callable[[int], torch.Tensor]
    ) -> list[Proposal]:
        """Return the proposals of the key frames that have any.

        Args:
            detect: gives the masks bool (O, h, w) of a key frame, the best first.
        """
        out: list[Proposal] = []
        first = 0
        for t in steps(key_frames, len(key_frames), "key frames"):
            masks = detect(t)
            if len(masks):
                kept = keep_distinct(pairwise_mask_iou(masks, masks).tolist(), self.proposal_iou)
                out.append(Proposal(t, masks[kept], first))
                first += len(kept)
        return out

    def __call__(
        self, heads: torch.nn.Module, features: GetFeatures, proposals: Sequence[Proposal], **video
    ) -> tuple[PackedTubes, list[int], np.ndarray]:
        """Propagate, score and reduce; arguments as ``sequences``.

        Returns:
            The tubes of all sequences, the kept ones in order, and their class scores (n, C).
        """
        tubes, scores = self.sequences(heads, features, proposals, **video)
        with stage("reduction"):
            kept, reduced = reduce_sequences(scores, tubes.iou().cpu().numpy(), self.reduction)
        return tubes, kept, reduced

    def sequences(
        self,
        heads: torch.nn.Module,
        features: GetFeatures,
        proposals: Sequence[Proposal],
        *,
        length: int,
        size: tuple[int, int],
        device: torch.device,
    ) -> tuple[PackedTubes, np.ndarray]:
        """Propagate and score.

        Args:
            heads: ``SeqPropROIHeads``.
            size: (H, W).

        Returns:
            The tubes of all N sequences, and their class scores (N, C).
        """
        count = sum(len(p.masks) for p in proposals)
        tubes = PackedTubes(count, length, size, device=device)
        if count == 0:
            return tubes, np.zeros((0, heads.num_classes), np.float32)
        boxes = torch.zeros((length, count, 4), device=device)
        visible = torch.zeros((length, count), dtype=torch.bool, device=device)

        def store(rows: slice, frame: int, soft: torch.Tensor) -> None:
            masks = soft >= self.mask_thresh
            tubes.put(rows, frame, masks)
            boxes[frame, rows], visible[frame, rows] = boxes_of_masks(masks)

        def propagated(frame: int) -> FrameFeatures:
            found = features(frame)
            return FrameFeatures(found.pyramid["p2"], found.query)

        self.propagation.run(heads.prop_head, propagated, proposals, length=length, store=store)
        with stage("scores"):
            scores = self._scores(heads, features, boxes, visible)
        return tubes, scores.cpu().numpy()

    def _scores(
        self,
        heads: torch.nn.Module,
        features: GetFeatures,
        boxes: torch.Tensor,
        visible: torch.Tensor,
    ) -> torch.Tensor:
        """Class scores (N, C); the boxes of one frame are classified in one batch."""
        probabilities = torch.stack(
            [heads.classify(features(t).pyramid, boxes[t]) for t in range(len(boxes))]
        )
        return sequence_class_scores(probabilities, visible, mean=self.score_mean)
