"""Variants of one model over the same videos: what they have in common is computed once.

A system registers how its variants share by the name of its meta-architecture; without that every
variant computes everything. Results are the same either way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from torch import nn

# One config and its model.
Variant = tuple[CfgNode, nn.Module]
# From the variants and the data set's videos by id to what forgets the video that was run last.
Share = Callable[[Sequence[Variant], Mapping[Any, Any]], Callable[[], None]]

_SHARES: dict[str, Share] = {}


def shares(meta_architecture: str) -> Callable[[Share], Share]:
    """Register a function that lets the variants of a meta-architecture share their work."""

    def register(function: Share) -> Share:
        _SHARES[meta_architecture] = function
        return function

    return register


def share(variants: Sequence[Variant], videos: Mapping[Any, Any]) -> Callable[[], None]:
    """Let variants of the same meta-architecture share; returns what to call after each video."""
    by_name: dict[str, list[Variant]] = {}
    for cfg, model in variants:
        by_name.setdefault(cfg.MODEL.META_ARCHITECTURE, []).append((cfg, model))
    forgetting = [
        _SHARES[name](group, videos) for name, group in by_name.items() if name in _SHARES
    ]

    def forget() -> None:
        for each in forgetting:
            each()

    return forget
