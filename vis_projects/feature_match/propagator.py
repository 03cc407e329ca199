"""FeatureMatch as a propagator: the memory, and what is remembered of a decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import Tensor, nn
from torch.nn import functional as F

from ..modeling import PROPAGATOR_REGISTRY, Preprocess, Propagation, Propagator, shortest_edge
from ..structures import Frame, InputError, on_device
from .matching import Remembered, joint_features, propagate


@PROPAGATOR_REGISTRY.register()
class FeatureMatchPropagator(Propagator):
    """Carries soft labels on by nearest neighbours among a trunk's features.

    The memory is the frame before and at most ``max_references`` lasting frames: the first, and the
    newest others in which an object entered or that were committed with ``reference``. Soft labels
    are remembered as predicted; where the committed map differs, its own pixels count.

    Args:
        backbone: gives the maps; frozen.
        preprocess: sizes and colours.
        levels, level_weights, top_k, sharpness, window, max_references, chunk_mb: see
            ``MODEL.FEATURE_MATCH``.
        inference_dtype: of the trunk.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        preprocess: Preprocess,
        levels: Sequence[str] = ("res3", "res4"),
        level_weights: Sequence[float] = (1.0, 1.0),
        top_k: int = 5,
        sharpness: float = 7.0,
        window: int = 16,
        max_references: int = 4,
        chunk_mb: float = 32.0,
        inference_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        missing = [n for n in levels if n not in backbone.output_shape()]
        if missing or len(levels) != len(level_weights) or not levels:
            raise InputError(
                f"MODEL.FEATURE_MATCH.LEVELS {tuple(levels)} with weights {tuple(level_weights)}: "
                f"name one weight for each of {', '.join(backbone.output_shape())} that is used"
            )
        if top_k < 1 or max_references < 1 or window < 0:
            raise InputError(
                "MODEL.FEATURE_MATCH: TOP_K and MAX_REFERENCES are at least 1, WINDOW at least 0"
            )
        self.backbone = backbone.requires_grad_(False).eval()
        self.preprocess = preprocess
        self.levels, self.level_weights = tuple(levels), tuple(level_weights)
        self.options = {
            "top_k": top_k,
            "sharpness": sharpness,
            "window": window,
            "chunk_mb": chunk_mb,
        }
        self.max_references = max_references
        self.inference_dtype = inference_dtype
        self.reset((0, 0))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        options = cfg.MODEL.FEATURE_MATCH
        return {
            "backbone": build_backbone(cfg, ShapeSpec(channels=3)),
            "preprocess": Preprocess(
                cfg.MODEL.PIXEL_MEAN,
                cfg.MODEL.PIXEL_STD,
                size_rule=shortest_edge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST),
                frame_format=cfg.INPUT.FORMAT,
                on_device=cfg.MODEL.RESIZE_ON_DEVICE,
            ),
            "levels": options.LEVELS,
            "level_weights": options.LEVEL_WEIGHTS,
            "top_k": options.TOP_K,
            "sharpness": options.SHARPNESS,
            "window": options.WINDOW,
            "max_references": options.MAX_REFERENCES,
            "chunk_mb": options.CHUNK_MB,
            "inference_dtype": getattr(torch, cfg.MODEL.INFERENCE_DTYPE),
        }

    def train(self, mode: bool = True) -> FeatureMatchPropagator:
        """Nothing learns here."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        return self.preprocess.device

    def reset(self, size: tuple[int, int]) -> None:
        self.size = tuple(size)
        self.ids: list[int] = []  # in order of appearance, the order of all planes
        self._references: list[Remembered] = []
        self._previous: Remembered | None = None
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
        count = 1 + len(self.ids)
        self._features = self._extract(frame)
        self._soft = propagate(
            self._features,
            [r.with_labels(count) for r in self._references],
            None if self._previous is None else self._previous.with_labels(count),
            **self.options,
        )
        planes = F.interpolate(self._soft[None], frame.size, mode="bilinear", align_corners=False)[
            0
        ]
        lookup = torch.tensor([0, *self.ids]).to(self.device, non_blocking=True)
        self._labels = lookup[planes.argmax(0)]
        ids = sorted(self.ids)
        rows = on_device([0, *(1 + self.ids.index(i) for i in ids)], planes.device)
        return Propagation(ids, self._labels, planes[rows])

    def _extract(self, frame: Frame) -> Tensor:
        enabled = self.inference_dtype != torch.float32
        with torch.autocast(self.device.type, self.inference_dtype, enabled=enabled):
            maps = self.backbone(self.preprocess([frame]).tensor)
        return joint_features(maps, self.levels, self.level_weights)

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
        self.ids += entering
        if not self.ids:
            self._forget_frame()
            return
        if self._features is None:
            self._features = self._extract(self._frame)
        labels = label_map.to(self.device, torch.int64)
        kept = Remembered(self._features, self._decided(labels))
        self._previous = kept
        if entering or reference or corrected:
            self._references.append(kept)
            if len(self._references) > self.max_references:
                del self._references[min(1, self.max_references - 1)]
        self._forget_frame()

    @torch.no_grad()
    def remove(self, ids: Sequence[int]) -> None:
        count = 1 + len(self.ids)
        rows = [0, *(n for n, i in enumerate(self.ids, 1) if i not in ids)]
        self.ids = [i for i in self.ids if i not in ids]
        kept = [r.with_labels(count).only(rows) for r in self._references]
        self._references = kept if self.ids else []
        if self._previous is not None:
            self._previous = self._previous.with_labels(count).only(rows) if self.ids else None
        self._forget_frame()

    def _decided(self, labels: Tensor) -> Tensor:
        """Return soft labels (K, h, w): as predicted, but of cells where the decision differs."""
        size = self._features.shape[-2:]
        known = torch.tensor([0, *self.ids]).to(self.device, non_blocking=True)
        planes = (labels[None] == known[:, None, None]).float()
        planes[0] += 1 - planes.sum(0)  # ids that nobody announced are background
        hard = F.interpolate(planes[None], size, mode="area")[0]
        if self._soft is None:
            return hard
        soft = F.pad(self._soft, (0, 0, 0, 0, 0, len(hard) - len(self._soft)))
        differs = (labels != self._labels).float()[None, None]
        return torch.where(F.interpolate(differs, size, mode="area")[0] > 0, hard, soft)
