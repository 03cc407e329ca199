"""MSN as a system: detector, propagator and selection network joined over a whole video."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Instances
from torch import nn

from ..config import register_names
from ..modeling import (
    FeatureCache,
    NewMasks,
    OnFrame,
    Preprocess,
    Propagator,
    VideoModel,
    build_propagator,
    shortest_edge,
    stage,
    steps,
)
from ..modeling.registered_names import names_of
from ..structures import Frame, FrameSource, InputError, Track, VideoInfo, VideoResult
from .association import Chooser, StageTwoRules
from .chooser import MaskChooser, oracle_choice
from .detections import (
    RECLASSIFIER_REGISTRY,
    Detections,
    Reclassifier,
    as_detections,
    reclassify,
    select_detections,
)
from .direction import Direction, OnDecision, run_direction
from .final_tracks import StageThreeRules, final_tracks
from .linked_detections import link_detections
from .selection_network import build_selection_network

SELECT = ("msn", "propagation", "segmentation", "oracle")
DIRECTIONS = ("both", "forward", "backward", "none")
register_names("MODEL.MSN.DETECTOR", names_of(META_ARCH_REGISTRY))


@META_ARCH_REGISTRY.register()
class MSN(VideoModel):
    """Three-stage video instance segmentation (MSN); offline, inference only.

    An image gives the detector's detections without ids. Weights carry the prefixes ``detector.``,
    ``propagator.`` and ``selector.``; ``python -m vis_projects.msn.join_weights`` makes the file.

    Args:
        detector: gives ``{"instances"}`` for images, as Detectron2's detectors do.
        propagator: carries label maps on.
        chooser: the selection network and how it is asked.
        resize: makes frames as large as the detector wants them.
        rules, final_rules: of stage 2 and of stage 3.
        select, switch_margin, directions, score_thresh, duplicate_iou, clean_up: see ``MODEL.MSN``.
        feature_cache_mb: limit of the features kept between the directions.
        reclassifier: may correct classes; None leaves them.

    Attributes:
        ground_truth: for SELECT "oracle": gives the true masks (G, H, W) of (video id, frame).
        on_decision: told every decision of stage 2, if set.
    """

    online = False
    trainable = False
    classes_key = "MODEL.ROI_HEADS.NUM_CLASSES"

    @configurable
    def __init__(
        self,
        *,
        detector: nn.Module,
        propagator: Propagator,
        chooser: MaskChooser,
        resize: Preprocess,
        rules: StageTwoRules,
        final_rules: StageThreeRules,
        select: str = "msn",
        switch_margin: float = 0.0,
        directions: str = "both",
        score_thresh: float = 0.5,
        duplicate_iou: float = 0.7,
        clean_up: bool = False,
        feature_cache_mb: float = 2048.0,
        reclassifier: Reclassifier | None = None,
        reclassify_options: dict[str, float] | None = None,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        for key, value, known in (
            ("SELECT", select, SELECT),
            ("DIRECTIONS", directions, DIRECTIONS),
        ):
            if value not in known:
                raise InputError(f"MODEL.MSN.{key} {value!r} is unknown: use {', '.join(known)}")
        self.detector, self.propagator, self.selector = detector, propagator, chooser.network
        self.chooser, self.resize = chooser, resize
        self.chooser.autocast = self.autocast
        self.rules, self.final_rules = rules, final_rules
        self.select, self.switch_margin, self.directions = select, switch_margin, directions
        self.score_thresh, self.duplicate_iou = score_thresh, duplicate_iou
        self.clean = clean_up
        self.reclassifier, self.reclassify_options = reclassifier, reclassify_options or {}
        self.features = FeatureCache(feature_cache_mb)
        if hasattr(propagator, "feature_cache"):  # shared by both directions
            propagator.feature_cache = self.features
        self.ground_truth: Callable[[Any, int], torch.Tensor] | None = None
        self.on_decision: OnDecision | None = None
        # Only SELECT "msn" asks the selection network.
        self.unused_at_test = () if select == "msn" else ("selector",)

    @property
    def num_classes(self) -> int | None:
        """Classes that the detector tells apart, None if it does not say."""
        return getattr(self.detector, "num_classes", None)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        options, selector = cfg.MODEL.MSN, cfg.MODEL.MSN.SELECTOR
        name = options.RECLASSIFIER
        return {
            **cls.base_config(cfg),
            "detector": _build_detector(cfg),
            "propagator": build_propagator(cfg),
            "chooser": MaskChooser(
                build_selection_network(
                    selector.NAME, width=selector.WIDTH, layers=selector.LAYERS
                ),
                size=selector.SIZE,
                crop=selector.CROP,
                aggregate=selector.AGGREGATE,
                symmetric=selector.SYMMETRIC,
            ),
            "resize": Preprocess(
                [0.0] * 3,
                [1.0] * 3,
                size_rule=shortest_edge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST),
                frame_format=cfg.INPUT.FORMAT,
                on_device=cfg.MODEL.RESIZE_ON_DEVICE,
            ),
            "rules": StageTwoRules(
                associate_iou=options.ASSOCIATE_IOU,
                new_max_overlap=options.NEW_MAX_OVERLAP,
                new_object_rule=options.NEW_OBJECT_RULE,
                max_objects=options.MAX_OBJECTS,
            ),
            "final_rules": StageThreeRules.from_options(options),
            "select": options.SELECT,
            "switch_margin": options.SWITCH_MARGIN,
            "directions": options.DIRECTIONS,
            "score_thresh": options.SCORE_THRESH,
            "duplicate_iou": options.DUPLICATE_IOU,
            "clean_up": options.CLEAN_UP,
            "feature_cache_mb": cfg.MODEL.FEATURE_CACHE_MB,
            "reclassifier": RECLASSIFIER_REGISTRY.get(name)(cfg) if name else None,
            "reclassify_options": {
                "threshold": options.RECLASSIFY_THRESH,
                "margin": options.RECLASSIFY_MARGIN,
            },
        }

    # Stage 1 -------------------------------------------------------------------------------------

    @torch.no_grad()
    def detect_image(self, frame: Frame) -> Instances:
        height, width = frame.size
        item = {"image": self.resize.resize(frame), "height": height, "width": width}
        with stage("detection"), self.autocast():
            instances = self.detector([item])[0]["instances"]
        if self.reclassifier is not None:
            image = frame.array() if self.input_format == "RGB" else frame.array()[..., ::-1]
            instances = reclassify(instances, image, self.reclassifier, **self.reclassify_options)
        return instances

    def detections(self, frame: Frame) -> Detections:
        """Detections of a frame that enter stage 2."""
        instances = select_detections(
            self.detect_image(frame),
            threshold=self.score_thresh,
            duplicate_iou=self.duplicate_iou,
        )
        return as_detections(instances, frame.size)

    # Stages 2 and 3 ------------------------------------------------------------------------------

    @torch.no_grad()
    def run_video(
        self,
        source: FrameSource,
        new_masks: NewMasks | None = None,
        *,
        info: VideoInfo | None = None,
        on_frame: OnFrame | None = None,
    ) -> VideoResult:
        """Segment a whole video; see the base class. Frames are read once per direction.

        Raises:
            InputError: masks are given, the oracle has no ground truth, or a stream exceeds
                ``MODEL.SPOOL_LIMIT_MB``.
        """
        if self.select == "oracle" and self.ground_truth is None:
            raise InputError("MODEL.MSN.SELECT oracle needs the model's ground_truth to be set")
        video_id = None if info is None else info.video_id

        def run(frames: FrameSource) -> VideoResult:
            try:
                tracks = self._tracks(frames, video_id)
            finally:
                self.features.clear()
                self.propagator.reset((0, 0))
            return VideoResult(tracks, tuple(frames.size), len(frames))

        return self.run_whole(source, new_masks, run, on_frame=on_frame)

    def _tracks(self, source: FrameSource, video_id: Any) -> list[Track]:
        found: dict[int, Detections] = {}  # of both directions; run lengths, not dense

        def detect(frame: Frame) -> Detections:
            if frame.index not in found:
                found[frame.index] = self.detections(frame)
            return found[frame.index]

        if self.directions == "none":
            return link_detections([detect(frame) for frame in source])

        def run(backward: bool) -> Direction:
            return self.one_direction(source, backward, detect=detect, video_id=video_id)

        forward = run(False) if self.directions != "backward" else None
        backward = run(True) if self.directions != "forward" else None
        return final_tracks(
            forward,
            backward,
            self.final_rules,
            device=self.device,
            better=lambda t, a, b: self._forward_better(source[t], a, b),
        )

    def one_direction(
        self,
        source: FrameSource,
        backward: bool,
        *,
        detect: Callable[[Frame], Detections],
        video_id: Any = None,
    ) -> Direction:
        """Stage 2 over a video, forward or backward.

        Args:
            source: frames that can be sought.
            detect: gives the detections of a frame that enter.
            video_id: for the oracle.
        """
        length = len(source)
        frames = (source[t] for t in reversed(range(length))) if backward else iter(source)
        frames = steps(frames, length, "backward" if backward else "forward")
        return run_direction(
            frames,
            length,
            tuple(source.size),
            propagator=self.propagator,
            detect=detect,
            chooser=lambda frame: self._chooser(frame, video_id),
            rules=self.rules,
            device=self.device,
            clean=self.clean,
            on_decision=self.on_decision,
        )

    def rgb(self, frame: Frame) -> torch.Tensor:
        """The frame's RGB colours in [0, 1], (3, H, W) on the device."""
        image = frame.image.to(self.device, non_blocking=True).float() / 255
        return image if self.input_format == "RGB" else image.flip(0)

    def _chooser(self, frame: Frame, video_id: Any) -> Chooser:
        """The choice of stage 2: A is the propagated mask, B the segmented one."""
        if self.select == "msn":
            limit = 0.5 + self.switch_margin
            return lambda a, b: ~(1 - self.chooser.probability(self.rgb(frame), a, b) > limit)
        if self.select == "oracle":
            truth = self.ground_truth(video_id, frame.index).to(self.device)
            return lambda a, b: oracle_choice(truth, a, b)
        keep = self.select == "propagation"
        return lambda a, b: torch.full((len(a),), keep, device=a.device)

    def _forward_better(
        self, frame: Frame, forward: torch.Tensor, backward: torch.Tensor
    ) -> Sequence[bool]:
        """The choice of stage 3: A is the forward mask, which wins at exactly one half."""
        return (self.chooser.probability(self.rgb(frame), forward, backward) >= 0.5).tolist()


def _build_detector(cfg: CfgNode) -> nn.Module:
    detector = META_ARCH_REGISTRY.get(cfg.MODEL.MSN.DETECTOR)(cfg).to(cfg.MODEL.DEVICE)
    detector.needs_weights = False  # the pipeline asks for all of them
    return detector
