"""FRTM as a system: semi-supervised video object segmentation (FRTM, CVPR 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from ..modeling import MatchingMemory, Preprocess, VideoModel, mask_prompts, shortest_edge
from ..modeling.exported_network import ExportedNetwork
from ..structures import (
    Frame,
    FrameResult,
    InputError,
    VideoInfo,
    on_device,
)
from .backbone import PIXEL_MEAN, PIXEL_STD, ResNetFeatures, build_features
from .base_net import BaseNetTracker, ReferenceEncoder
from .exported import exported_networks
from .fine_tuning import FineTuningTracker
from .matching_tracker import MatchingTracker
from .score_start import start_from_scores
from .segmentation_network import SegmentationNetwork
from .target_cache import TargetCache, cache_settings
from .target_learner import TargetOptions
from .tracker import TARGET_LAYER, ObjectTracker
from .training import OfflineTraining

TARGET_MODELS = ("discriminative", "matching", "encoder", "fine_tuned")


@META_ARCH_REGISTRY.register()
class FRTM(VideoModel):
    """A target model per object, learned online, and one segmentation network for all.

    Masks: an empty one is skipped with a warning, its object does not exist; one that fills the
    frame is learned with uniform pixel weights; that of an id that is known already replaces the
    prediction and is learned as a lasting sample; of overlapping masks the higher id wins. Without
    any mask a video has no tracks. The number of objects is limited by memory only.

    Args:
        backbone: feature extractor, frozen.
        refiner: segmentation network; None for D-only.
        encoder: Base net's encoder, or None.
        tracker: runs the networks on a stream.
        training: gives the losses; None where nothing is trained.
    """

    task = "vos"
    takes_masks = True

    @configurable
    def __init__(
        self,
        *,
        backbone: ResNetFeatures,
        refiner: SegmentationNetwork | None,
        tracker: ObjectTracker,
        preprocess: Preprocess,
        encoder: ReferenceEncoder | None = None,
        training: OfflineTraining | None = None,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.backbone = backbone.requires_grad_(False).eval()
        self.refiner, self.encoder = refiner, encoder
        self.preprocess = preprocess
        self.tracker = tracker
        self.tracker.autocast = self.autocast
        self.training_losses = training
        self.trainable = training is not None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        frtm = cfg.MODEL.FRTM
        if frtm.TARGET_MODEL not in TARGET_MODELS:
            raise InputError(
                f"MODEL.FRTM.TARGET_MODEL {frtm.TARGET_MODEL!r}: use {', '.join(TARGET_MODELS)}"
            )
        if not frtm.SEGMENTATION and frtm.TARGET_MODEL not in TARGET_MODELS[:2]:
            raise InputError(
                "MODEL.FRTM.SEGMENTATION False (D-only) needs TARGET_MODEL 'discriminative' or "
                "'matching'"
            )
        backbone = build_features(cfg)
        refiner = encoder = None
        if frtm.SEGMENTATION:
            refiner = build_network(cfg, backbone)
        if frtm.TARGET_MODEL == "encoder":
            encoder = ReferenceEncoder(backbone.channels[TARGET_LAYER], frtm.ENCODER.WIDTH)
        preprocess = build_preprocess(cfg)
        options = TargetOptions.from_config(cfg)
        return {
            **cls.base_config(cfg),
            "backbone": backbone,
            "refiner": refiner,
            "encoder": encoder,
            "preprocess": preprocess,
            "tracker": build_tracker(cfg, backbone, refiner, encoder, preprocess, options),
            "training": build_training(cfg, backbone, refiner, encoder, preprocess, options),
        }

    def exported_networks(self, size: tuple[int, int]) -> Sequence[ExportedNetwork]:
        """What ``vis export model`` writes; ``size`` is that of the network's input."""
        return exported_networks(self, size)

    def frame_networks(self) -> list[nn.Module]:
        return [self.backbone, *([] if self.refiner is None else [self.refiner])]

    def train(self, mode: bool = True) -> FRTM:
        """Set the mode; the backbone stays in evaluation mode (section 3.3)."""
        super().train(mode)
        self.backbone.eval()
        return self

    # Training ------------------------------------------------------------------------------------

    def losses(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        if self.training_losses is None:
            raise InputError("MODEL.FRTM.SEGMENTATION False (D-only): there is nothing to train")
        return self.training_losses.losses(items)

    # Streams -------------------------------------------------------------------------------------

    def begin(self, info: VideoInfo) -> None:
        self.tracker.reset(info.size)

    @property
    def object_ids(self) -> list[int]:
        return self.tracker.ids

    def drop_objects(self, ids: Sequence[int]) -> None:
        self.tracker.remove(ids)

    def segment(self, frame: Frame, new_masks: Any = None) -> FrameResult:
        tracker = self.tracker
        given = mask_prompts(new_masks, frame, known=tracker.ids)
        planes = tracker.step(
            frame,
            given.entering,
            given.entering_masks.to(tracker.device, non_blocking=True),
            corrected=given.corrected,
            corrections=given.corrected_masks.to(tracker.device, non_blocking=True),
        )
        ids = sorted(tracker.ids)
        labels = tracker.labels(planes)
        rows = on_device(ids, labels.device)
        found = labels[None] == rows[:, None, None]
        order = on_device([1 + tracker.ids.index(i) for i in ids], labels.device)
        inside = (planes[order] * found).sum((1, 2)) / found.sum((1, 2)).clamp(min=1)
        return FrameResult.build(found, rows, scores=inside, index=frame.index)


def build_network(cfg: CfgNode, backbone: ResNetFeatures) -> SegmentationNetwork:
    """Return the segmentation network for a backbone's features."""
    frtm = cfg.MODEL.FRTM
    network = SegmentationNetwork(
        backbone.channels, head=frtm.HEAD_RESIZE, training_head=frtm.TRAINING.HEAD_RESIZE
    )
    if frtm.TRAINING.START_FROM_SCORES:
        start_from_scores(network)
    return network


def build_preprocess(cfg: CfgNode) -> Preprocess:
    """Return the preprocessing: RGB, ImageNet's mean and std, native size if MIN_SIZE_TEST is 0."""
    return Preprocess(
        PIXEL_MEAN,
        PIXEL_STD,
        size_rule=shortest_edge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST),
        frame_format=cfg.INPUT.FORMAT,
        network_format="RGB",
        on_device=cfg.MODEL.RESIZE_ON_DEVICE,
    )


def build_tracker(
    cfg: CfgNode,
    backbone: ResNetFeatures,
    refiner: nn.Module | None,
    encoder: ReferenceEncoder | None,
    preprocess: Preprocess,
    options: TargetOptions,
) -> ObjectTracker:
    """Return the tracker that ``MODEL.FRTM.TARGET_MODEL`` names."""
    frtm = cfg.MODEL.FRTM
    kinds = {
        "discriminative": ObjectTracker,
        "matching": partial(MatchingTracker, memory=build_matching(cfg, backbone)),
        "encoder": BaseNetTracker,
        "fine_tuned": FineTuningTracker,
    }
    tracker = kinds[frtm.TARGET_MODEL](
        backbone,
        refiner,
        preprocess=preprocess,
        options=options,
        merge_passes=frtm.MERGE_PASSES,
        objects_per_batch=frtm.OBJECTS_PER_BATCH,
        seed=frtm.SEED,
    )
    if isinstance(tracker, BaseNetTracker):
        tracker.encoder = encoder
    if isinstance(tracker, FineTuningTracker):
        tuning = frtm.FINE_TUNING
        tracker.iterations, tracker.batch = tuning.ITERATIONS, tuning.BATCH
        tracker.samples, tracker.rate = tuning.SAMPLES, tuning.RATE
    return tracker


def build_matching(cfg: CfgNode, backbone: ResNetFeatures) -> MatchingMemory | None:
    """Return an empty memory where labels are matched, else None."""
    if cfg.MODEL.FRTM.TARGET_MODEL != "matching":
        return None
    return MatchingMemory.from_config(cfg, [f"res{name[-1]}" for name in backbone.channels])


def build_training(
    cfg: CfgNode,
    backbone: ResNetFeatures,
    refiner: SegmentationNetwork | None,
    encoder: ReferenceEncoder | None,
    preprocess: Preprocess,
    options: TargetOptions,
) -> OfflineTraining | None:
    """Return the losses, or None for D-only.

    Target models are cached only if frames come unaugmented: a model learned on one draw of an
    augmentation does not fit another.
    """
    if refiner is None:
        return None
    own = cfg.MODEL.FRTM.TRAINING
    size = tuple(own.SIZE) if min(own.SIZE) > 0 else None
    augmented = frames_vary(cfg)
    if augmented and own.CACHE_DIR:
        raise InputError(
            "MODEL.FRTM.TRAINING.CACHE_DIR: target models cannot be kept while "
            f"{augmented} changes the frames; turn one of the two off"
        )
    options = options.for_training(cfg)
    cache = None
    if not augmented:
        cache = TargetCache(
            own.CACHE_DIR or None,
            f"{backbone.label}-c{own.WIDTH}",
            limit=own.CACHE_MODELS,
            settings=cache_settings(options, size, own.RESIZE_FILTER),
        )
    return OfflineTraining(
        backbone,
        refiner,
        preprocess=preprocess,
        options=options,
        cache=cache,
        size=size,
        resize_filter=own.RESIZE_FILTER,
        encoder=encoder,
        matching=build_matching(cfg, backbone),
    )


def frames_vary(cfg: CfgNode) -> str:
    """Return the name of an option that makes a frame look different each time, or ""."""
    aug = cfg.INPUT.AUGMENTATIONS
    random = {
        "FLIP_PROB": aug.FLIP_PROB > 0,
        "REVERSE_PROB": aug.REVERSE_PROB > 0,
        "SCALE": tuple(aug.SCALE) != (1.0, 1.0),
        "DUPLICATE_PROB": aug.DUPLICATE_PROB > 0,
        "CROP.SIZE": min(aug.CROP.SIZE) > 0,
        "COLOUR": any(v for k, v in aug.COLOUR.items() if k != "PER_FRAME"),
        "BLUR": aug.BLUR.MOTION_PROB > 0 or aug.BLUR.GAUSSIAN_PROB > 0,
        "MOTION": any(aug.MOTION.values()),
    }
    names = [f"INPUT.AUGMENTATIONS.{name}" for name, on in random.items() if on]
    if len(set(cfg.INPUT.MIN_SIZE_TRAIN)) > 1:
        names.append("INPUT.MIN_SIZE_TRAIN")
    return names[0] if names else ""
