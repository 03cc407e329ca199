"""FeatureMatch as a propagator: a trunk and the memory of what was decided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import Tensor, nn
from torch.nn import functional as F

from ..modeling import (
    PROPAGATOR_REGISTRY,
    MatchingMemory,
    Preprocess,
    Propagation,
    Propagator,
    shortest_edge,
    stage,
)
from ..modeling.backbones.timm_backbone import TimmBackbone
from ..modeling.winner import winner
from ..structures import Frame, on_device


@PROPAGATOR_REGISTRY.register()
class FeatureMatchPropagator(Propagator):
    """Carries soft labels on by nearest neighbours among a trunk's features.

    Soft labels are remembered as predicted; where the committed map differs, its own pixels count.
    Frames committed with ``reference`` or ``corrected`` last, as do those in which objects enter.

    Args:
        backbone: gives the maps; frozen.
        preprocess: sizes and colours.
        memory: see ``MODEL.FEATURE_MATCH``.
        inference_dtype: of the trunk.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        preprocess: Preprocess,
        memory: MatchingMemory,
        inference_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False).eval()
        self.preprocess = preprocess
        self.memory = memory
        self.inference_dtype = inference_dtype
        self.reset((0, 0))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        backbone = build_backbone(cfg, ShapeSpec(channels=3))
        return {
            "backbone": backbone,
            "preprocess": Preprocess(
                cfg.MODEL.PIXEL_MEAN,
                cfg.MODEL.PIXEL_STD,
                size_rule=shortest_edge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST),
                frame_format=cfg.INPUT.FORMAT,
                on_device=cfg.MODEL.RESIZE_ON_DEVICE,
            ),
            "memory": MatchingMemory.from_config(cfg, backbone.output_shape()),
            "inference_dtype": getattr(torch, cfg.MODEL.INFERENCE_DTYPE),
        }

    def train(self, mode: bool = True) -> FeatureMatchPropagator:
        """Nothing learns here."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        return self.preprocess.device

    @property
    def ids(self) -> list[int]:
        """The known objects in order of appearance, the order of all planes."""
        return self.memory.ids

    def reset(self, size: tuple[int, int]) -> None:
        self.size = tuple(size)
        self.memory.reset()
        self._forget_frame()

    def _forget_frame(self) -> None:
        self._frame: Frame | None = None
        self._features: Tensor | None = None
        self._soft: Tensor | None = None  # labels (K, h, w) of the frame
        self._labels: Tensor | None = None  # its label map (H, W)

    # Prediction ----------------------------------------------------------------------------------

    @torch.no_grad()
    def predict(self, frame: Frame) -> Propagation:
        self._forget_frame()
        self._frame = frame
        if not self.ids:
            self._labels = torch.zeros(frame.size, dtype=torch.int64, device=self.device)
            return Propagation([], self._labels, torch.ones(1, *frame.size, device=self.device))
        self._features = self._extract(frame)
        with stage("matching"):
            self._soft = self.memory.propagate(self._features)
        with stage("enlarge"):
            planes = F.interpolate(
                self._soft[None], frame.size, mode="bilinear", align_corners=False
            )[0]
            lookup = torch.tensor([0, *self.ids]).to(self.device, non_blocking=True)
            self._labels = lookup[winner(planes).long()]
        ids = sorted(self.ids)
        rows = on_device([0, *(1 + self.ids.index(i) for i in ids)], planes.device)
        return Propagation(ids, self._labels, planes[rows])

    def _extract(self, frame: Frame) -> Tensor:
        enabled = self.inference_dtype != torch.float32
        with stage("preprocess"):
            image = self.preprocess([frame]).tensor
        with (
            stage("backbone"),
            torch.autocast(self.device.type, self.inference_dtype, enabled=enabled),
        ):
            if isinstance(self.backbone, TimmBackbone):  # nothing deeper than what is compared
                maps = self.backbone(image, self.memory.levels)
            else:
                maps = self.backbone(image)
        return self.memory.features(maps)

    # Decision ------------------------------------------------------------------------------------

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
        if frame is not None and frame is not self._frame:
            self.predict(frame)
        if self._frame is None:
            raise RuntimeError("commit without predict needs frame=")
        entering = [i for i in new_ids if i not in self.ids]
        if self.ids or entering:
            if self._features is None:
                self._features = self._extract(self._frame)
            labels = label_map.to(self.device, torch.int64)
            decided = differs = None
            if label_map is not self._labels or self._soft is None:
                known = torch.tensor([0, *self.ids, *entering]).to(self.device, non_blocking=True)
                decided = (labels[None] == known[:, None, None]).float()
                decided[0] += 1 - decided.sum(0)  # ids that nobody announced are background
                differs = labels != self._labels
            self.memory.remember(
                self._features,
                soft=self._soft,
                decided=decided,
                differs=differs,
                entering=entering,
                lasting=reference or bool(corrected),
            )
        self._forget_frame()

    @torch.no_grad()
    def remove(self, ids: Sequence[int]) -> None:
        self.memory.remove(ids)
        self._forget_frame()
