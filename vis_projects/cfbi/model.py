"""CFBI as a system for semi-supervised video object segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from ..modeling import PropagatingModel
from ..modeling.exported_network import ExportedNetwork
from ..structures import VideoResult
from .exported import exported_networks
from .propagator import CFBIPropagator
from .training import SequenceLoss


@META_ARCH_REGISTRY.register()
class CFBI(PropagatingModel):
    """Collaborative video object segmentation by foreground-background integration.

    New objects overwrite the prediction where their mask is not zero. The mask of an id that is
    known replaces the id's pixels, and the frame becomes a lasting reference for it.

    Args:
        propagator: network and state.
        loss: the training criterion over a clip.
        fill_id_gaps: see ``MODEL.CFBI.FILL_ID_GAPS``.
    """

    @configurable
    def __init__(
        self,
        *,
        propagator: CFBIPropagator,
        loss: SequenceLoss,
        fill_id_gaps: bool = False,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.fill_id_gaps = fill_id_gaps
        self._filling = False
        self.network: nn.Module = propagator.network  # weights are stored under this name
        self.loss = loss
        object.__setattr__(self, "propagator", propagator)

    def exported_networks(self, size: tuple[int, int]) -> Sequence[ExportedNetwork]:
        """What ``vis export model`` writes; ``size`` is that of the network's input."""
        return exported_networks(self, size)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        options = cfg.MODEL.CFBI
        half = cfg.SOLVER.MAX_ITER // 2
        loss = SequenceLoss(
            top_k_share=options.TOP_K_SHARE,
            mining_steps=half if options.MINING_STEPS < 0 else options.MINING_STEPS,
            sequential_from=half if options.SEQUENTIAL_FROM < 0 else options.SEQUENTIAL_FROM,
            max_objects=options.MAX_OBJECTS,
        )
        return {
            **cls.base_config(cfg),
            "propagator": CFBIPropagator(cfg),
            "loss": loss,
            "fill_id_gaps": options.FILL_ID_GAPS,
        }

    def _apply(self, fn: Any, recurse: bool = True) -> CFBI:
        self.propagator._apply(fn)  # not a child (its network is ours), but it moves with us
        return super()._apply(fn, recurse)

    def losses(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return self.loss(self.network, self.propagator.preprocess, items)

    def _video(self, item: dict[str, Any]) -> VideoResult:
        self._filling = self.fill_id_gaps
        try:
            return super()._video(item)
        finally:
            self._filling = False

    def entering_ids(self, given: Sequence[int]) -> list[int]:
        """Objects that enter, and under ``fill_id_gaps`` the ids that they leave out."""
        if not self._filling or not given:
            return list(given)
        known = self.propagator.ids
        return [i for i in range(1, max(given) + 1) if i not in known]
