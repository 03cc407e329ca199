"""The registry of semantic heads; none is part of this Detectron2."""

from __future__ import annotations

from fvcore.common.registry import Registry

SEM_SEG_HEADS_REGISTRY = Registry("SEM_SEG_HEADS")
SEM_SEG_HEADS_REGISTRY.__doc__ = "Semantic heads ``(cfg, dict[str, ShapeSpec])`` by name."
