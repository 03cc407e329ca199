"""Variants of MSN share detections, features, predictions of CFBI and whole directions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode

from ..modeling import FeatureCache, Propagator
from ..modeling.variants import Variant, shares
from ..structures import Frame, FrameSource
from .detections import Detections
from .direction import Direction
from .selection_pairs import true_masks
from .shared_predictions import SharedPredictions


class KeptFeatures(FeatureCache):
    """Features that outlive a run: of one video, for all variants."""

    def clear(self) -> None:
        """Keep them; ``forget`` drops them."""

    def forget(self) -> None:
        super().clear()


class SharedWork:
    """What variants of MSN know of the current video.

    Args:
        videos: by id; the oracle takes its masks from them.
    """

    def __init__(self, videos: Mapping[Any, Any]) -> None:
        self.videos = videos
        self.found: dict[tuple[str, int], Detections] = {}
        self.directions: dict[tuple, Direction] = {}
        self.propagators: dict[str, Any] = {}
        self.caches: list[KeptFeatures] = []

    def join(self, cfg: CfgNode, model: Any) -> None:
        """Let a variant take from the others and leave its own to them."""
        if model.select == "oracle":
            model.ground_truth = lambda video, t: true_masks(self.videos[video], t)
        others = cfg.MODEL.clone()
        others.defrost()
        others.pop("MSN")
        options = others.dump()
        if options not in self.propagators:
            self.propagators[options] = self._shared(model.propagator)
        model.propagator = self.propagators[options]
        msn = cfg.MODEL.MSN
        entering = f"{others.dump()}{msn.SCORE_THRESH}{msn.DUPLICATE_IOU}{msn.RECLASSIFIER}"
        key = (model.select, model.switch_margin, model.rules, model.clean, entering)
        self._share_results(model, entering, key)

    def _shared(self, propagator: Propagator) -> Propagator:
        """Let CFBI keep features and predictions between runs; other kinds may depend on more."""
        if not hasattr(propagator, "feature_cache"):
            return propagator
        propagator.feature_cache = KeptFeatures(math.inf)
        self.caches.append(propagator.feature_cache)
        return SharedPredictions(propagator)

    def _share_results(self, model: Any, entering: str, key: tuple) -> None:
        """Detections are those of the first variant that asks; so are directions of equal rules."""
        detect, run = model.detections, model.one_direction

        def detections(frame: Frame) -> Detections:
            if (entering, frame.index) not in self.found:
                self.found[entering, frame.index] = detect(frame)
            return self.found[entering, frame.index]

        def one_direction(source: FrameSource, backward: bool, **options: Any) -> Direction:
            if (key, backward) not in self.directions:
                self.directions[key, backward] = run(source, backward, **options)
            return self.directions[key, backward]

        model.detections, model.one_direction = detections, one_direction

    def forget(self) -> None:
        """Another video begins."""
        self.found.clear()
        self.directions.clear()
        for part in (*self.caches, *self.propagators.values()):
            if hasattr(part, "forget"):
                part.forget()


@shares("MSN")
def share_work(variants: Sequence[Variant], videos: Mapping[Any, Any]) -> Callable[[], None]:
    """Compute once what variants of the whole pipeline have in common."""
    work = SharedWork(videos)
    for cfg, model in variants:
        work.join(cfg, model)
    return work.forget
