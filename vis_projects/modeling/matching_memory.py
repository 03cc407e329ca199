"""The memory of label propagation: what a matcher knows of earlier frames.

Letters: N objects known so far, M that enter, H x W pixels, h x w cells of the features' grid.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from detectron2.config import CfgNode
from torch import Tensor
from torch.nn import functional as F

from ..config import register_config
from ..structures import InputError
from .matching import Remembered, joint_features, propagate


@register_config("feature_match")
def add_config(cfg: CfgNode) -> None:
    """Add the options of matching; all values are chosen (docs/real_video.md says how)."""
    options = cfg.MODEL.FEATURE_MATCH = CfgNode()
    # Maps that are compared, brought to the finest grid and to unit length, and their weights.
    options.LEVELS = ("res3", "res4")
    options.LEVEL_WEIGHTS = (1.0, 1.0)
    # A cell takes its label from this many nearest cells of the memory, weighted by a softmax of
    # SHARPNESS times the similarity.
    options.TOP_K = 5
    options.SHARPNESS = 7.0
    # Only cells of the frame before that lie within this many rows and columns are compared; 0
    # compares all. References are always compared as a whole.
    options.WINDOW = 16
    # Frames kept beside the frame before: the first, and the newest others in which an object
    # entered or was corrected.
    options.MAX_REFERENCES = 4
    # Megabytes of similarities that are held at once, at most.
    options.CHUNK_MB = 32.0


class MatchingMemory:
    """The frame before and at most ``max_references`` lasting frames: the first, and the newest
    others in which an object entered or that were asked for.

    Args:
        levels, level_weights, top_k, sharpness, window, max_references, chunk_mb: see
            ``MODEL.FEATURE_MATCH``.

    Attributes:
        ids: the N objects in order of appearance, the order of all planes after the background's.
        references, previous: what is remembered.
    """

    def __init__(
        self,
        *,
        levels: Sequence[str] = ("res3", "res4"),
        level_weights: Sequence[float] = (1.0, 1.0),
        top_k: int = 5,
        sharpness: float = 7.0,
        window: int = 16,
        max_references: int = 4,
        chunk_mb: float = 32.0,
    ) -> None:
        if top_k < 1 or max_references < 1 or window < 0:
            raise InputError(
                "MODEL.FEATURE_MATCH: TOP_K and MAX_REFERENCES are at least 1, WINDOW at least 0"
            )
        self.levels, self.level_weights = tuple(levels), tuple(level_weights)
        self.top_k, self.sharpness, self.window = top_k, sharpness, window
        self.max_references, self.chunk_mb = max_references, chunk_mb
        self.reset()

    @classmethod
    def from_config(cls, cfg: CfgNode, available: Collection[str]) -> MatchingMemory:
        """Return the memory that ``MODEL.FEATURE_MATCH`` describes.

        Args:
            available: names of the maps that the trunk gives.

        Raises:
            InputError: an option that cannot be.
        """
        options = cfg.MODEL.FEATURE_MATCH
        levels, weights = tuple(options.LEVELS), tuple(options.LEVEL_WEIGHTS)
        if not levels or len(levels) != len(weights) or not {*levels} <= {*available}:
            raise InputError(
                f"MODEL.FEATURE_MATCH.LEVELS {levels} with weights {weights}: "
                f"name one weight for each of {', '.join(available)} that is used"
            )
        return cls(
            levels=levels,
            level_weights=weights,
            top_k=options.TOP_K,
            sharpness=options.SHARPNESS,
            window=options.WINDOW,
            max_references=options.MAX_REFERENCES,
            chunk_mb=options.CHUNK_MB,
        )

    def reset(self) -> None:
        """Forget everything."""
        self.ids: list[int] = []
        self.references: list[Remembered] = []
        self.previous: Remembered | None = None

    def features(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Return what is compared (C, h, w) of a frame's maps (1, C_l, h_l, w_l)."""
        return joint_features(maps, self.levels, self.level_weights)

    def propagate(self, features: Tensor) -> Tensor:
        """Return the share of each label in each cell of a frame, (1 + N, h, w)."""
        count = 1 + len(self.ids)
        return propagate(
            features,
            [r.with_labels(count) for r in self.references],
            None if self.previous is None else self.previous.with_labels(count),
            top_k=self.top_k,
            sharpness=self.sharpness,
            window=self.window,
            chunk_mb=self.chunk_mb,
        )

    def remember(
        self,
        features: Tensor,
        *,
        soft: Tensor | None = None,
        decided: Tensor | None = None,
        differs: Tensor | None = None,
        entering: Sequence[int] = (),
        lasting: bool = False,
    ) -> None:
        """Take a frame in: labels as they were propagated, but of cells in which the decision was
        another.

        Args:
            features: of the frame, (C, h, w).
            soft: what ``propagate`` gave, (1 + N, h, w).
            decided: planes (1 + N + M, H, W) of 0 and 1; None where all was left as propagated.
            differs: bool (H, W), pixels in which the decision is not what was predicted; None takes
                all of ``decided``.
            entering: M ids that were not known before.
            lasting: keep the frame as a reference, too.
        """
        self.ids += entering
        labels = soft
        if decided is not None:
            size = features.shape[-2:]
            labels = F.interpolate(decided.float()[None], size, mode="area")[0]
            if soft is not None and differs is not None:
                soft = F.pad(soft, (0, 0, 0, 0, 0, len(labels) - len(soft)))
                changed = F.interpolate(differs.float()[None, None], size, mode="area")[0] > 0
                labels = torch.where(changed, labels, soft)
        self.previous = Remembered(features, labels)
        if entering or lasting:
            self.references.append(self.previous)
            if len(self.references) > self.max_references:
                del self.references[min(1, self.max_references - 1)]

    def remove(self, ids: Collection[int]) -> None:
        """Forget objects; what they had becomes background."""
        count = 1 + len(self.ids)
        rows = [0, *(n for n, i in enumerate(self.ids, 1) if i not in ids)]
        self.ids = [i for i in self.ids if i not in ids]
        if not self.ids:
            self.reset()
            return
        self.references = [r.with_labels(count).only(rows) for r in self.references]
        if self.previous is not None:
            self.previous = self.previous.with_labels(count).only(rows)
