"""CFBI as a propagator: references, the frame before, several scales and flips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from detectron2.config import configurable

from ..modeling import PROPAGATOR_REGISTRY, FeatureCache, Propagation, Propagator
from ..modeling.backbones.timm_backbone import TimmBackbone, build_trunk
from ..modeling.winner import winner
from ..structures import Frame, InputError
from .matching import ReferencePixels
from .network import CFBINetwork, Embedded, probabilities
from .preprocess import CFBIPreprocess, Run, runs_of

UNKNOWN = -1  # in a reference's label map: pixels that are no evidence


@dataclass(frozen=True)
class Reference:
    """A frame that is remembered.

    Attributes:
        features: by run.
        labels: ids (H, W); ``UNKNOWN`` pixels are left out of matching.
        entered, corrected: objects that entered with the frame, or whose masks were corrected in a
            frame with which none entered.
        lasting: kept for its own sake.
    """

    features: dict[Run, Embedded]
    labels: torch.Tensor
    entered: frozenset[int] = frozenset()
    corrected: frozenset[int] = frozenset()
    lasting: bool = False

    @property
    def of_use(self) -> bool:
        return bool(self.lasting or self.entered or self.corrected)

    def without(self, ids: Sequence[int]) -> Reference:
        """Return the frame with the pixels of some objects as background."""
        gone = torch.tensor(list(ids)).to(self.labels.device, non_blocking=True)
        labels = torch.where(torch.isin(self.labels, gone), 0, self.labels)
        return replace(
            self, labels=labels, entered=self.entered - {*ids}, corrected=self.corrected - {*ids}
        )


def matching_dtype(name: str) -> torch.dtype:
    """Return the number format that ``MODEL.CFBI.MATCHING_DTYPE`` names."""
    if name not in ("float32", "float16"):
        raise InputError(f"MODEL.CFBI.MATCHING_DTYPE {name!r}: use float32 or float16")
    return getattr(torch, name)


def timm_trunk(cfg: Any) -> TimmBackbone | None:
    """Return the timm network of ``MODEL.BACKBONE.NAME`` build_timm_backbone; None for a ResNet."""
    if cfg.MODEL.BACKBONE.NAME != "build_timm_backbone":
        return None
    trunk, options = build_trunk(cfg), cfg.MODEL.CFBI
    if cfg.MODEL.TIMM.PIXELS == "network":
        mean, std = ([255 * x for x in v] for v in (options.PIXEL_MEAN, options.PIXEL_STD))
        trunk.reads(mean, std, options.INPUT_FORMAT)
    return trunk


@PROPAGATOR_REGISTRY.register()
class CFBIPropagator(Propagator):
    """Propagates label maps with CFBI (inference of CFBI section 4; MSN stage 2).

    The committed label map is the previous mask of the next frame; a frame becomes a lasting
    reference if an object entered with it, or if a known object was corrected in it: then for what
    was given and the background, since the other objects' masks there are mere predictions. Objects
    that vanish keep their channel.

    Args:
        network: the network.
        preprocess: sizes and colours.
        scales, flip: the runs whose probabilities are averaged.
        max_references: the newest so many references are kept beside the first; 0 keeps all.
        max_corrections: corrected frames among them, at most; the oldest go.

    Attributes:
        feature_cache: set by an owner that passes over a video more than once (MSN), which also
            clears it; otherwise every frame is extracted when it comes.
    """

    @configurable
    def __init__(
        self,
        network: CFBINetwork,
        preprocess: CFBIPreprocess,
        *,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        max_references: int = 0,
        max_corrections: int = 8,
        inference_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.network = network
        self.preprocess = preprocess
        self.runs = runs_of(scales, flip)
        self.max_references = max_references
        self.max_corrections = max_corrections
        self.inference_dtype = inference_dtype
        self.feature_cache: FeatureCache | None = None
        self.reset((0, 0))

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        options = cfg.MODEL.CFBI
        several = len(options.SCALES) > 1
        return {
            "network": CFBINetwork(
                trunk=timm_trunk(cfg),
                depth=options.DEPTH,
                width=options.WIDTH,
                embedding=options.EMBEDDING,
                embedding_dim=options.EMBEDDING_DIM,
                head_width=options.HEAD_WIDTH,
                norm=options.NORM,
                atrous_rate=options.GLOBAL_ATROUS_RATE,
                chunk_mb=options.GLOBAL_CHUNK_MB,
                objects_per_batch=options.OBJECTS_PER_BATCH,
                embedding_gain=options.EMBEDDING_GAIN,
                matching_dtype=matching_dtype(options.MATCHING_DTYPE),
            ),
            "preprocess": CFBIPreprocess(
                options.PIXEL_MEAN,
                options.PIXEL_STD,
                frame_format=cfg.INPUT.FORMAT,
                network_format=options.INPUT_FORMAT,
                limit=options.LONG_EDGE_MULTI_SCALE if several else options.LONG_EDGE,
            ),
            "scales": options.SCALES,
            "flip": options.FLIP,
            "max_references": options.MAX_REFERENCES,
            "max_corrections": cfg.MODEL.MAX_REFERENCES,
            "inference_dtype": getattr(torch, cfg.MODEL.INFERENCE_DTYPE),
        }

    @property
    def device(self) -> torch.device:
        return self.network.fg_bias.device

    def reset(self, size: tuple[int, int]) -> None:
        self.size = tuple(size)
        self.ids: list[int] = []
        self._frame: Frame | None = None
        self._current: dict[Run, Embedded] = {}
        self._references: list[Reference] = []
        self._previous: Reference | None = None
        self._pixels: dict[Run, ReferencePixels] = {}

    # Prediction ----------------------------------------------------------------------------------

    @torch.no_grad()
    def predict(self, frame: Frame) -> Propagation:
        self._frame, self._current = frame, {}
        if not self.ids:
            shape = frame.size
            zeros = torch.zeros(shape, dtype=torch.int64, device=self.device)
            return Propagation([], zeros, torch.ones((1, *shape), device=self.device))
        self._extract()
        total: torch.Tensor | None = None
        for run in self.runs:
            prob = self._run(run, frame.size)
            total = prob if total is None else total + prob
        total = total / len(self.runs)
        planes = winner(total).long()
        lookup = torch.tensor([0, *self.ids]).to(self.device, non_blocking=True)
        return Propagation(list(self.ids), lookup[planes], total)

    def _extract(self) -> None:
        """Embed the current frame for every run, unless the cache has it."""
        for run in self.runs:
            if run not in self._current:
                self._current[run] = self._features(self._frame, run)

    def _features(self, frame: Frame, run: Run) -> Embedded:
        def compute() -> tuple[torch.Tensor, torch.Tensor]:
            enabled = self.inference_dtype != torch.float32
            with torch.autocast(self.device.type, self.inference_dtype, enabled=enabled):
                embedded = self.network.embed(self.preprocess(frame, run))[0]
            return embedded.embedding, embedded.low

        if self.feature_cache is None:
            return Embedded(*compute())
        return Embedded(*self.feature_cache.get((frame.index, run), compute))

    def _run(self, run: Run, size: tuple[int, int]) -> torch.Tensor:
        """Probabilities (1 + N, H, W) of one run, un-flipped."""
        references = [(r.features[run], self._planes(r.labels, run)) for r in self._references]
        objects = len(self.ids) + 1
        if run not in self._pixels:
            self._pixels[run] = self.network.collect(references, objects)
        before = self._previous
        previous = (before.features[run], self._planes(before.labels, run))
        enabled = self.inference_dtype != torch.float32
        with torch.autocast(self.device.type, self.inference_dtype, enabled=enabled):
            logits = self.network(
                self._current[run], references, previous, objects, pixels=self._pixels[run]
            )
        prob = probabilities(logits, size)
        return prob.flip(-1) if run.flip else prob

    def _planes(self, labels: torch.Tensor, run: Run) -> torch.Tensor:
        """A label map of ids as planes 0..N, flipped for a flipped run."""
        known = torch.tensor([0, *self.ids]).to(self.device, non_blocking=True)
        planes = torch.searchsorted(known, labels).clamp(max=len(self.ids))
        planes = torch.where(known[planes] == labels, planes, -1)  # an id not counted yet
        return planes.flip(-1) if run.flip else planes

    # Decision ------------------------------------------------------------------------------------

    @torch.no_grad()
    def commit(
        self,
        label_map: torch.Tensor,
        new_ids: Sequence[int] = (),
        *,
        frame: Frame | None = None,
        reference: bool = False,
        corrected: Sequence[int] = (),
    ) -> None:
        if frame is not None and frame is not self._frame:
            self._frame, self._current = frame, {}
        entering = sorted(set(new_ids) - set(self.ids))
        self.ids = sorted([*self.ids, *entering])
        if not self.ids:
            return
        self._extract()
        labels = label_map.to(self.device, torch.int64)
        kept = {run: Embedded(e.embedding) for run, e in self._current.items()}
        self._previous = Reference(kept, labels)
        if not (entering or reference or corrected):
            return
        if not (entering or reference):
            given = torch.tensor([0, *corrected]).to(self.device, non_blocking=True)
            labels = torch.where(torch.isin(labels, given), labels, UNKNOWN)
        corrects = frozenset() if entering or reference else frozenset(corrected)
        self._references.append(
            Reference(kept, labels, frozenset(entering), corrects, lasting=reference)
        )
        self._limit_references()
        self._pixels = {}

    def _limit_references(self) -> None:
        corrections = [n for n, r in enumerate(self._references) if r.corrected]
        if len(corrections) > self.max_corrections:
            del self._references[corrections[0]]
        if self.max_references and len(self._references) > self.max_references:
            del self._references[1]

    @torch.no_grad()
    def remove(self, ids: Sequence[int]) -> None:
        self.ids = [i for i in self.ids if i not in ids]
        kept = [r.without(ids) for r in self._references]
        self._references = [r for r in kept if r.of_use] if self.ids else []
        self._previous = self._previous.without(ids) if self.ids else None
        self._pixels = {}
