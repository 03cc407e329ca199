"""Tracking several objects through a stream of frames (FRTM, Algorithm 1).

Letters: N objects so far in order of appearance, M that enter, H x W pixels, C feature channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..modeling import Preprocess, stage
from ..structures import Frame
from .augmentation import augment
from .backbone import ResNetFeatures
from .merging import merge, plane_labels
from .score_stencil import ScoreStencil
from .target_learner import FirstSamples, TargetLearner, TargetOptions, learn_first
from .target_model import TargetModel

TARGET_LAYER = "layer4"
Features = dict[str, Tensor]
_JOINED = "target"


def target_map(features: Features, layers: Sequence[str] = (TARGET_LAYER,)) -> Tensor:
    """Return the map (B, C, h, w) that target models read: several layers are joined at the
    finest grid, once for each dict of features."""
    if len(layers) == 1:
        return features[layers[0]]
    if _JOINED not in features:
        size = max((features[name].shape[-2:] for name in layers), key=lambda s: s[0] * s[1])
        features[_JOINED] = torch.cat([_at_size(features[name], size) for name in layers], 1)
    return features[_JOINED]


def _at_size(x: Tensor, size: Sequence[int]) -> Tensor:
    if x.shape[-2:] == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


class Targets(Protocol):
    """The appearance models of objects that entered together."""

    ids: list[int]

    def scores(self, features: Tensor) -> Tensor:
        """Return coarse scores (N, 1, h, w) of features (1, C, h, w)."""

    def observe(self, features: Tensor, planes: Tensor, stencil: ScoreStencil) -> None:
        """Learn from the merged planes (N, H, W) of a frame."""

    def keep(self, rows: Sequence[int]) -> None:
        """Forget the other objects."""


@dataclass
class Segmented:
    """A frame after the networks.

    Attributes:
        frame: the frame.
        features: by layer, (1, C, h, w).
        probabilities: of the N objects known before, (N, H, W).
    """

    frame: Frame
    features: Features
    probabilities: Tensor


class ObjectTracker:
    """Keeps a target model for every object and runs the networks on each frame.

    Args:
        backbone: feature extractor.
        segment: ``(scores (N, 1, h, w), features, (H, W)) -> logits (N, 1, H, W)``; None takes the
            upsampled scores as the result (D-only).
        preprocess: frames to the backbone's input.
        options: settings of the target models.
        merge_passes, objects_per_batch, seed: see the options of the same name.
        autocast: context for the networks.
    """

    def __init__(
        self,
        backbone: ResNetFeatures,
        segment: nn.Module | None,
        *,
        preprocess: Preprocess,
        options: TargetOptions,
        merge_passes: int = 2,
        objects_per_batch: int = 8,
        seed: int = 0,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        if merge_passes not in (1, 2):
            raise ValueError(f"MODEL.FRTM.MERGE_PASSES {merge_passes}: use 1 or 2")
        self.backbone, self.segment, self.preprocess = backbone, segment, preprocess
        self.options = options
        self.merge_passes = merge_passes
        self.objects_per_batch = max(objects_per_batch, 1)
        self.seed = seed
        self.autocast = autocast
        self.reset((0, 0))

    def reset(self, size: tuple[int, int]) -> None:
        """Forget everything; the next video has frames of ``size`` (H, W)."""
        self.size = tuple(size)
        self.targets: list[Targets] = []
        self._stencils: dict[Any, ScoreStencil] = {}

    @property
    def ids(self) -> list[int]:
        """The known objects in order of appearance, the order of all planes."""
        return [i for t in self.targets for i in t.ids]

    @property
    def device(self) -> torch.device:
        return self.preprocess.device

    # One frame -----------------------------------------------------------------------------------

    def step(
        self,
        frame: Frame,
        ids: Sequence[int] = (),
        masks: Tensor | None = None,
        *,
        corrected: Sequence[int] = (),
        corrections: Tensor | None = None,
    ) -> Tensor:
        """Segment the next frame and learn from it; return planes (1 + N + M, H, W).

        Args:
            ids, masks: M objects that enter with this frame, bool (M, H, W) with pixels. They win
                their pixels in it; older objects lose them before merging.
            corrected, corrections: known objects whose masks are given, bool (len, H, W), disjoint
                from the masks of those that enter.
        """
        if not self.ids and not ids:
            return torch.ones(1, *self.size, device=self.device)
        seen = self.look(frame)
        older = len(seen.probabilities)
        planes = self.merge(seen.probabilities, masks)
        for i, mask in zip(corrected, () if corrections is None else corrections):
            planes = self.decided(planes, 1 + self.ids.index(i), mask)
        self.remember(
            seen,
            planes[1 : 1 + older],
            entering=ids,
            masks=masks,
            corrected=corrected,
            corrections=corrections,
            untouched=not ids and not corrected,
        )
        return planes

    def remember(
        self,
        seen: Segmented,
        planes: Tensor,
        *,
        entering: Sequence[int] = (),
        masks: Tensor | None = None,
        corrected: Sequence[int] = (),
        corrections: Tensor | None = None,
        reference: bool = False,
        untouched: bool = False,
    ) -> None:
        """Learn from a frame as it was decided.

        Args:
            planes: merged planes (N, H, W) of the objects known before the frame.
            entering, masks, corrected, corrections: see ``step``.
            reference: the frame is to last. Target models have no such frames: predicted masks are
                no lasting samples (section 3.4).
            untouched: nothing was decided otherwise than predicted.
        """
        self.learn(seen, planes)
        if corrected:
            self.correct(seen, corrected, corrections)
        if entering:
            self.enter(seen, entering, masks)

    def look(self, frame: Frame) -> Segmented:
        """Run the networks for all known objects; nothing is remembered."""
        with stage("backbone"), self.autocast():
            features = self.features([frame])
        return Segmented(frame, features, self._probabilities(features))

    def features(self, frames: Sequence[Frame], *, last: str = "layer5") -> Features:
        """Return the feature maps of frames of one size."""
        return self.backbone(self.preprocess(frames).tensor, last=last)

    def target_map(self, features: Features) -> Tensor:
        """Return the map (B, C, h, w) that target models read."""
        return target_map(features, self.options.layers)

    def cells(self, features: Features) -> tuple[int, int]:
        """Return (h, w) of coarse scores."""
        return tuple(self.target_map(features).shape[-2:])

    @property
    def deepest(self) -> str:
        """The deepest layer that target models read."""
        return max(self.options.layers)

    def merge(self, probabilities: Tensor, entering: Tensor | None = None) -> Tensor:
        """Return merged planes (1 + N + M, H, W)."""
        with stage("merge"):
            if entering is not None and len(entering):
                free = ~entering.any(0)
                probabilities = torch.cat([probabilities * free, entering.float()])
            if len(probabilities) == 0:
                return torch.ones(1, *self.size, device=self.device)
            return merge(probabilities)

    def decided(self, planes: Tensor, row: int, mask: Tensor) -> Tensor:
        """Return planes with one object's decision; pixels that agree with it stay as they are.

        Args:
            row: the object's plane.
            mask: bool (H, W).
        """
        found = plane_labels(planes, passes=self.merge_passes) == row
        forced = torch.zeros_like(planes)
        forced[0], forced[row] = ~mask, mask
        return torch.where(found == mask, planes, forced)

    def labels(self, planes: Tensor) -> Tensor:
        """Return the id (H, W) of each pixel of merged planes."""
        index = plane_labels(planes, passes=self.merge_passes)
        lookup = torch.tensor([0, *self.ids], device="cpu")
        return lookup.to(index.device, non_blocking=True)[index]

    def learn(self, seen: Segmented, planes: Tensor) -> None:
        """Let the objects known before the frame learn from their planes (N, H, W)."""
        if len(planes) == 0:
            return
        with stage("target_update"):
            x = self.target_map(seen.features)
            stencil = self.stencil(planes.shape[-2:], x.shape[-2:])
            at = 0
            for targets in self.targets:
                if at >= len(planes):
                    break
                targets.observe(x, planes[at : at + len(targets.ids)], stencil)
                at += len(targets.ids)

    def enter(self, seen: Segmented, ids: Sequence[int], masks: Tensor) -> None:
        """Start M objects on their masks, bool (M, H, W), none of them empty."""
        with stage("target_init"):
            self.targets.append(self.start_targets(seen, ids, masks))

    def correct(self, seen: Segmented, ids: Sequence[int], masks: Tensor) -> None:
        """Learn given masks, bool (len(ids), H, W), of known objects."""
        with stage("target_update"):
            for targets in self.targets:
                given = [n for n, i in enumerate(ids) if i in targets.ids]
                if given:
                    rows = [targets.ids.index(ids[n]) for n in given]
                    self.correct_targets(targets, seen, rows, masks[given])

    def correct_targets(
        self, targets: Targets, seen: Segmented, rows: Sequence[int], masks: Tensor
    ) -> None:
        """Learn given masks of some of the objects that entered together."""
        x = self.target_map(seen.features)
        targets.correct(rows, x, masks, self.stencil(masks.shape[-2:], x.shape[-2:]))

    def remove(self, ids: Sequence[int]) -> None:
        """Forget known objects."""
        for targets in self.targets:
            rows = [n for n, i in enumerate(targets.ids) if i not in ids]
            if rows and len(rows) < len(targets.ids):
                targets.keep(rows)
        self.targets = [t for t in self.targets if not {*t.ids} <= {*ids}]

    def stencil(self, image: Sequence[int], scores: Sequence[int]) -> ScoreStencil:
        """Return the loss stencil of two sizes; made once per video."""
        key = (*image, *scores)
        if key not in self._stencils:
            self._stencils[key] = ScoreStencil(
                tuple(image), tuple(scores), dtype=self.options.dtype, device=self.device
            )
        return self._stencils[key]

    def _probabilities(self, features: Features) -> Tensor:
        """Return the known objects' own probabilities (N, H, W)."""
        if not self.targets:
            return torch.zeros(0, *self.size, device=self.device)
        with stage("target_model"):
            x = self.target_map(features)
            scores = torch.cat([t.scores(x) for t in self.targets])
        return self.refine_all(scores, features)

    def refine_all(self, scores: Tensor, features: Features) -> Tensor:
        """Return probabilities (N, H, W) of any number of scores (N, 1, h, w)."""
        with stage("segmentation"), self.autocast():
            batches = scores.split(self.objects_per_batch)
            return torch.cat([self.refine(b, features, self.size) for b in batches])

    def refine(self, scores: Tensor, features: Features, size: tuple[int, int]) -> Tensor:
        """Return probabilities (N, H, W) of scores (N, 1, h, w)."""
        if self.segment is None:
            up = F.interpolate(scores, size, mode="bilinear", align_corners=False)
            return up[:, 0].clamp(0, 1)
        return torch.sigmoid(self.segment(scores, features, size)[:, 0].float())

    # The first frame of an object ----------------------------------------------------------------

    def start_targets(self, seen: Segmented, ids: Sequence[int], masks: Tensor) -> Targets:
        """Learn the target models of objects that enter."""
        parts = []
        for at in range(0, len(ids), self.objects_per_batch):
            batch = slice(at, at + self.objects_per_batch)
            x, labels = self.first_samples(seen, ids[batch], masks[batch], self.options.samples)
            stencil = self.stencil(labels.shape[-2:], x.shape[-2:])
            model = self.initial_model(ids[batch], x.shape[2])
            parts.append(learn_first(model, x, labels, stencil, self.options))
        return TargetLearner(ids, FirstSamples.join(parts), self.options)

    def first_samples(
        self, seen: Segmented, ids: Sequence[int], masks: Tensor, samples: int
    ) -> tuple[Tensor, Tensor]:
        """Return features (K, M, C, h, w) and labels bool (K, M, H, W) of augmented frames.

        The unmodified frame's features are those that the frame has already.
        """
        given = F.interpolate(masks[:, None].float(), seen.frame.image.shape[-2:])[:, 0] > 0
        given = given.cpu().numpy()
        features, labels = [], []
        for i, mask in zip(ids, given):
            if not mask.any():  # lost in resizing
                mask = np.ones_like(mask)
            images, moved = self.augment(seen.frame.array(), mask, samples, i)
            x = self.target_map(seen.features)
            if samples > 1:
                frames = [
                    Frame(torch.from_numpy(im).permute(2, 0, 1), output_size=seen.frame.output_size)
                    for im in images[1:]
                ]
                with stage("augmented_features"), self.autocast():
                    more = self.target_map(self.features(frames, last=self.deepest))
                x = torch.cat([x, more])
            features.append(x.float())
            labels.append(torch.from_numpy(moved))
        return torch.stack(features, 1), torch.stack(labels, 1).to(self.device, non_blocking=True)

    def augment(
        self, image: np.ndarray, mask: np.ndarray, samples: int, object_id: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return augmented images (K, H, W, 3) and masks (K, H, W) of one object."""
        rng = np.random.default_rng([self.seed, object_id])
        with stage("augmentation"):
            return augment(image, mask, samples, rng=rng, fill=self.options.fill)

    def initial_model(self, ids: Sequence[int], channels: int) -> TargetModel:
        """Return random filters; an object's depend on the seed and its id alone."""
        drawn = []
        for i in ids:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + int(i))
            drawn.append(TargetModel.random(1, channels, self.options.width, generator=generator))
        model = TargetModel(
            torch.cat([m.project for m in drawn]), torch.cat([m.filter for m in drawn])
        )
        return model.to(self.device, non_blocking=True)
