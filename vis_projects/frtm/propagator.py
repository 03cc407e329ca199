"""FRTM as a propagator for other systems.

How it learns from a committed hard label map: a target model wants soft labels. Where the
committed map agrees with the prediction about an object (both give it the pixel, or both do not)
its merged probability is kept; where they disagree the committed decision counts as 0 or 1. A
prediction committed as it is therefore gives exactly what FRTM itself remembers; a map that was
decided by others replaces what they changed and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor

from ..modeling import PROPAGATOR_REGISTRY, Propagation, Propagator, mask_prompts
from ..structures import Frame, label_map_to_masks, on_device
from .model import FRTM
from .tracker import Segmented


@PROPAGATOR_REGISTRY.register()
class FRTMPropagator(Propagator):
    """Carries label maps on with target models. Its state dict has FRTM's keys.

    Target models ignore ``reference``: predicted masks are no lasting samples (FRTM, section 3.4);
    given ones (``corrected``) are. With ``TARGET_MODEL`` matching both last.

    Args:
        model: the networks and settings.
    """

    @configurable
    def __init__(self, *, model: FRTM) -> None:
        super().__init__()
        self.backbone, self.refiner, self.encoder = model.backbone, model.refiner, model.encoder
        self.preprocess = model.preprocess
        self.tracker = model.tracker
        self._seen: Segmented | None = None
        self._planes: Tensor | None = None
        self._labels: Tensor | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {"model": FRTM(cfg).eval()}

    def train(self, mode: bool = True) -> FRTMPropagator:
        """Propagation is inference: the networks stay in evaluation mode."""
        return super().train(False)

    def reset(self, size: tuple[int, int]) -> None:
        self.tracker.reset(size)
        self._seen = self._planes = self._labels = None

    @torch.no_grad()
    def predict(self, frame: Frame) -> Propagation:
        tracker = self.tracker
        if not tracker.ids:  # the features are made when something starts
            self._seen = None
            self._planes = torch.ones(1, *tracker.size, device=tracker.device)
        else:
            self._seen = tracker.look(frame)
            self._planes = tracker.merge(self._seen.probabilities)
        self._frame = frame
        self._labels = tracker.labels(self._planes)
        ids = sorted(tracker.ids)
        rows = on_device([0, *(1 + tracker.ids.index(i) for i in ids)], self._planes.device)
        return Propagation(ids, self._labels, self._planes[rows])

    @torch.no_grad()
    def commit(
        self,
        label_map: Tensor,
        new_ids: Sequence[int] = (),
        *,
        frame: Frame | None = None,
        reference: bool = False,
        corrected: Sequence[int] = (),
    ) -> None:
        if self._labels is None and frame is None:
            raise RuntimeError("commit without predict needs frame=")
        if self._labels is None or (frame is not None and frame is not self._frame):
            self.predict(frame)
        tracker = self.tracker
        labels = label_map.to(tracker.device, torch.int64)
        fresh = {i: labels == i for i in new_ids}
        given = mask_prompts(fresh, self._frame, known=tracker.ids)
        seen, planes = self._seen, self._planes[1:]
        if seen is not None:
            known = label_map_to_masks(labels, tracker.ids)
            predicted = label_map_to_masks(self._labels, tracker.ids)
            planes = torch.where(known == predicted, planes, known.float())
        elif given.entering:
            seen = tracker.look(self._frame)
        if seen is not None:
            tracker.remember(
                seen,
                planes,
                entering=given.entering,
                masks=given.entering_masks,
                corrected=corrected,
                corrections=label_map_to_masks(labels, corrected),
                reference=reference,
                untouched=label_map is self._labels,
            )
        self._seen = self._planes = self._labels = None

    def remove(self, ids: Sequence[int]) -> None:
        self.tracker.remove(ids)
        self._seen = self._planes = self._labels = None
